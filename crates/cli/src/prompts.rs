//! Prompts from a file or a pipe, one JSON object per line, and their answers.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, TryRecvError};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smelt::plans::input;
use smelt::{Error, ErrorKind, GenerateTimings, Generation, GenerationParams, Llm, Prompt, RequestId, Requests};

use crate::failure::Failure;
use crate::output::{print_line, reads};

/// Longest line in bytes.
const MAX_LINE: usize = 4 << 20;
/// Requests that wait in the engine.
const QUEUE: usize = 64;
/// Answers that wait for those before them.
const WINDOW: u64 = 4096;

/// Many prompts at once.
#[derive(Debug, Args)]
pub struct PromptsArgs {
    /// File of prompts, `-` for stdin: one JSON object per line, `{"prompt": TEXT}` or `{"prompt_ids": [5, 6]}`,
    /// optionally with max_tokens, priority (0 to 7, 0 first) and id. Prints one object per prompt.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["a prompt", "logits", "json"])]
    pub prompts: Option<std::path::PathBuf>,
    /// Prints answers as they end, rather than in the order of the prompts.
    #[arg(long, requires = "prompts")]
    pub unordered: bool,
}

/// A line of the input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    prompt_ids: Option<Vec<u32>>,
    max_tokens: Option<u32>,
    #[serde(default)]
    priority: u8,
    id: Option<Value>,
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Answered {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    text: Option<String>,
    finish_reason: &'static str,
    timings: Option<GenerateTimings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The prompts of a file.
struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: u64,
    /// A line is longer or not readable: nothing after it is read.
    broken: bool,
}

impl Lines {
    /// Opens a file or a pipe; and says whether it can be read twice.
    fn open(path: &Path) -> Result<(Lines, bool), Failure> {
        let (name, reader, again): (String, Box<dyn Read + Send>, bool) = match path.to_str() {
            Some("-") => ("stdin".to_owned(), Box::new(std::io::stdin()), false),
            _ => {
                reads(path);
                let opened = input::stream(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
                (path.display().to_string(), opened.reader, opened.is_file)
            }
        };
        Ok((Lines { name, reader: Box::new(BufReader::new(reader)), number: 0, broken: false }, again))
    }

    fn parse(&self, line: &[u8]) -> Result<Line, Failure> {
        let wrong = |reason: String| Failure::bad_input(format!("{}, line {}: {reason}", self.name, self.number));
        let parsed: Line = serde_json::from_slice(line.trim_ascii_end()).map_err(|error| {
            // its line is always the first
            let (column, text) = (error.column(), error.to_string());
            let reason = text.split(" at line 1 column").next().unwrap_or(&text);
            wrong(format!("{reason} at column {column}"))
        })?;
        if parsed.prompt.is_some() == parsed.prompt_ids.is_some() {
            return Err(wrong("expected either `prompt` or `prompt_ids`".to_owned()));
        }
        if parsed.priority > 7 {
            return Err(wrong(format!("priority {} does not exist, expected 0 to 7", parsed.priority)));
        }
        Ok(parsed)
    }
}

impl Iterator for Lines {
    type Item = Result<Line, Failure>;

    /// The next line that is not blank.
    fn next(&mut self) -> Option<Result<Line, Failure>> {
        let mut line = Vec::new();
        while !self.broken {
            line.clear();
            self.number += 1;
            let read = (&mut self.reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line);
            if let Err(error) = read {
                self.broken = true;
                return Some(Err(Failure::bad_input(format!("{}, line {}: {error}", self.name, self.number))));
            }
            if line.len() > MAX_LINE {
                self.broken = true;
                let reason = format!("{}, line {}: it is longer than 4 MiB", self.name, self.number);
                return Some(Err(Failure::bad_input(reason)));
            }
            if line.is_empty() {
                return None;
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(self.parse(&line));
            }
        }
        None
    }
}

/// The prompts of a file, ready to be read. A file is checked to its end first; a pipe is read as it comes.
pub struct Prompts {
    lines: Lines,
}

impl Prompts {
    /// Opens a file or a pipe.
    pub fn open(path: &Path) -> Result<Prompts, Failure> {
        let (lines, again) = Lines::open(path)?;
        if !again {
            return Ok(Prompts { lines });
        }
        lines.into_iter().try_for_each(|line| line.map(|_| ()))?;
        Ok(Prompts { lines: Lines::open(path)?.0 })
    }

    /// Generates from all of them and prints the answers. Prompts that fail do so alone; the command then fails at its
    /// end.
    pub fn answer(
        self,
        llm: &mut Llm,
        params: &GenerationParams,
        max_tokens: Option<u32>,
        unordered: bool,
    ) -> Result<smelt::EngineStats, Failure> {
        // read by a thread: a slow writer of a pipe does not hold up what runs
        let (send, lines) = mpsc::sync_channel(QUEUE);
        std::thread::spawn(move || {
            for line in self.lines {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let room = llm.room_for(0);
        let mut answers =
            Answers { unordered, open: HashMap::new(), waiting: BTreeMap::new(), next: 0, failed: 0, worst: None };
        let mut reading = Reading { lines, given: 0, end: None };
        let mut requests = llm.requests();
        loop {
            while reading.end.is_none() && requests.stats().waiting < QUEUE && reading.given - answers.next < WINDOW {
                let Some(line) = reading.next(requests.open() == 0) else { break };
                let index = reading.given;
                reading.given += 1;
                answers.submit(&mut requests, index, line, (params, max_tokens, room))?;
            }
            if requests.open() == 0 && reading.end.is_some() {
                break;
            }
            for answer in requests.step() {
                if let Some(end) = answer.end {
                    answers.end(answer.request, end)?;
                }
            }
        }
        let stats = requests.stats();
        match (reading.end, answers.worst) {
            (Some(Err(broken)), _) => Err(broken),
            (_, Some(worst)) => Err(worst.help(format!("{} of {} prompts failed", answers.failed, reading.given))),
            _ => Ok(stats),
        }
    }
}

/// The lines that a thread reads.
struct Reading {
    lines: Receiver<Result<Line, Failure>>,
    given: u64,
    /// Set at the end, or after a line that is wrong.
    end: Option<Result<(), Failure>>,
}

impl Reading {
    /// The next line. If none has come yet, it is waited for only if there is nothing else to do.
    fn next(&mut self, wait: bool) -> Option<Line> {
        let line = match self.lines.try_recv() {
            Err(TryRecvError::Empty) if wait => self.lines.recv().map_err(|_| TryRecvError::Disconnected),
            line => line,
        };
        match line {
            Ok(Ok(line)) => return Some(line),
            Ok(Err(broken)) => self.end = Some(Err(broken)),
            Err(TryRecvError::Disconnected) => self.end = Some(Ok(())),
            Err(TryRecvError::Empty) => {}
        }
        None
    }
}

/// Answers on their way out.
struct Answers {
    unordered: bool,
    open: HashMap<RequestId, (u64, Option<Value>)>,
    /// Those that wait for others before them.
    waiting: BTreeMap<u64, Answered>,
    /// Answers that are out, or the next one's index.
    next: u64,
    failed: u64,
    /// The first error, or the first that is not about the prompt.
    worst: Option<Failure>,
}

impl Answers {
    fn submit(
        &mut self,
        requests: &mut Requests<'_>,
        index: u64,
        line: Line,
        (params, most, room): (&GenerationParams, Option<u32>, u32),
    ) -> Result<(), Failure> {
        let prompt = match (line.prompt, line.prompt_ids) {
            (Some(text), _) => Prompt::Text(text),
            (None, ids) => Prompt::Tokens(ids.unwrap_or_default()),
        };
        let submitted = requests.tokens(&prompt).and_then(|ids| {
            let rest = room.saturating_sub(u32::try_from(ids.len()).unwrap_or(u32::MAX));
            let max_tokens = line.max_tokens.or(most).unwrap_or(rest.clamp(1, 128));
            requests.submit(&Prompt::Tokens(ids), &GenerationParams { max_tokens, ..params.clone() }, line.priority)
        });
        match submitted {
            Ok(request) => {
                self.open.insert(request, (index, line.id));
                Ok(())
            }
            Err(error) => self.fail(index, line.id, error),
        }
    }

    fn end(&mut self, request: RequestId, end: Result<(Generation, GenerateTimings), Error>) -> Result<(), Failure> {
        let Some((index, id)) = self.open.remove(&request) else { return Ok(()) };
        match end {
            Ok((generation, timings)) => self.give(Answered {
                index,
                id,
                prompt_ids: generation.prompt_ids,
                token_ids: generation.token_ids,
                text: generation.text,
                finish_reason: generation.finish_reason.name(),
                timings: Some(timings),
                error: None,
            }),
            Err(error) => self.fail(index, id, error),
        }
    }

    fn fail(&mut self, index: u64, id: Option<Value>, error: Error) -> Result<(), Failure> {
        self.failed += 1;
        let kind = error.kind();
        let failure = Failure::from(error);
        let text = failure.to_string();
        if self.worst.is_none() || !matches!(kind, ErrorKind::BadInput | ErrorKind::Usage) {
            self.worst = Some(match kind {
                ErrorKind::Usage => Failure::bad_input(&text),
                _ => failure,
            });
        }
        let (prompt_ids, token_ids) = (Vec::new(), Vec::new());
        let finish_reason = "error";
        self.give(Answered {
            index,
            id,
            prompt_ids,
            token_ids,
            text: None,
            finish_reason,
            timings: None,
            error: Some(text),
        })
    }

    fn give(&mut self, answered: Answered) -> Result<(), Failure> {
        if self.unordered {
            self.next += 1;
            return print_line(&answered);
        }
        self.waiting.insert(answered.index, answered);
        while let Some(answered) = self.waiting.remove(&self.next) {
            self.next += 1;
            print_line(&answered)?;
        }
        Ok(())
    }
}
