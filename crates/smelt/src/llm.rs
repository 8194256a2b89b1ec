//! Loading a plan, and generating text with it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::{Engine, GenerationParams, RequestId, Settings};
use plan::partial::PartialFolder;
use plan::{ExecError, PlanFile};
use text::Tokenizer;

use crate::answer::tokens;
use crate::cache::CACHE_KEY;
use crate::generation::timings;
use crate::requests::Requests;
use crate::{
    Answer, Compilation, CompileOptions, Driver, Error, GenerateTimings, Generation, PlanCache, Progress, Prompt,
    Quiet, RunOptions, Source, TargetChoice,
};

/// A model, ready to generate.
pub struct Llm {
    file: Arc<PlanFile>,
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    load_ms: f64,
    warnings: Vec<String>,
    target_reason: Option<String>,
}

/// Of a crate whose profile does not optimize the kernels.
const UNOPTIMIZED: &str = "the CPU kernels are compiled without optimization and are some hundred times slower: build the \
     release profile, or set `opt-level = 3` in [profile.dev.package.runtime] of your Cargo.toml";

/// How a model is loaded.
#[derive(Debug, Default)]
pub struct LoadOptions {
    /// How a directory is compiled.
    pub compile: CompileOptions,
    /// Cache of compiled plans. Without one, a plan lives as long as its [`Llm`].
    pub cache: Option<PlanCache>,
    /// How the plan is run.
    pub run: RunOptions,
    /// How requests share it.
    pub engine: Settings,
}

/// A token as soon as it is generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Index of the prompt.
    pub prompt: usize,
    /// The token.
    pub id: u32,
    /// When the results of its step reached the host: the same for all tokens of a step.
    pub at: Instant,
    /// Text that is final with this token, empty while a character is incomplete; `None` without a tokenizer.
    pub text: Option<String>,
}

impl Llm {
    /// Loads a plan file, or compiles a checkpoint directory with the default options and loads that.
    pub fn load(path: impl AsRef<Path>) -> Result<Llm, Error> {
        Llm::load_with(&Driver::new(), path.as_ref(), &LoadOptions::default(), &mut Quiet)
    }

    /// Loads with a driver of one's own.
    pub fn load_with(
        driver: &Driver,
        path: &Path,
        options: &LoadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Llm, Error> {
        let is_config = || path.extension().is_some_and(|extension| extension == "json");
        // a pipe or a device, too: opening it as a plan gives the right error
        if path.exists() && !path.is_dir() && !(path.is_file() && is_config()) {
            return Llm::start(driver, PlanFile::open(path)?, options, progress);
        }
        progress.phase("reading checkpoint");
        Llm::compile(driver, &Source::open(path, &options.compile)?, options, progress)
    }

    /// Compiles a checkpoint, or takes its plan from the cache, and loads that.
    pub fn compile(
        driver: &Driver,
        source: &Source,
        options: &LoadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Llm, Error> {
        let chosen = driver.target(&options.compile.target, progress)?;
        // a cached plan must not depend on what `auto` meant that day
        let target = TargetChoice::Named(chosen.target.name().to_owned());
        let compile = CompileOptions { target, ..options.compile.clone() };
        let llm = Llm::compile_for(driver, source, &compile, options, progress)?;
        Ok(Llm { target_reason: Some(chosen.reason).filter(|reason| !reason.is_empty()), ..llm })
    }

    /// The same for the target of `compile`.
    fn compile_for(
        driver: &Driver,
        source: &Source,
        compile: &CompileOptions,
        options: &LoadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Llm, Error> {
        // Deleted when it goes out of scope; the mapping of an opened plan keeps its bytes.
        let temporary = PartialFolder::temporary();
        let temporary = temporary.map_err(|error| Error::Io { path: std::env::temp_dir(), error })?;
        let unkept = temporary.path().join("model.plan");
        let Some(cache) = &options.cache else {
            let compiled = Compilation::new(driver, source, compile, progress)?.write(&unkept)?;
            let llm = Llm::start(driver, PlanFile::open(&unkept)?, options, progress)?;
            return Ok(llm.warned(compiled.warnings));
        };
        let plan = cache.path(&source.checkpoint.sources(), compile)?;
        let key = PlanCache::key(&plan);
        if plan.exists() {
            // only regular files are read or replaced
            plan::partial::place(&plan).map_err(|error| Error::Io { path: plan.clone(), error })?;
            let own =
                |file: &PlanFile| file.plan().config.iter().any(|(name, value)| name == CACHE_KEY && *value == key);
            match PlanFile::open(&plan) {
                Ok(file) if own(&file) => match Llm::start(driver, file, options, progress) {
                    // A damaged plan in the cache is recompiled.
                    Err(Error::Plan(_) | Error::Exec(ExecError::Plan(_))) => {}
                    done => {
                        let warnings = source.warn(compile, progress);
                        return done.map(|llm| llm.warned(warnings));
                    }
                },
                Ok(_) => progress.note("the cached plan was made from other inputs: recompiling"),
                Err(_) => {}
            }
        }
        let plan = match cache.prepare() {
            Ok(()) => plan,
            Err(error) => {
                progress.note(&format!("the plan could not be cached: {error}"));
                unkept
            }
        };
        let compiled = Compilation::new(driver, source, compile, progress)?.keyed(&key).write(&plan)?;
        let llm = Llm::start(driver, PlanFile::open(&plan)?, options, progress)?;
        Ok(llm.warned(compiled.warnings))
    }

    /// The same with warnings of its compilation before those of loading.
    fn warned(mut self, mut warnings: Vec<String>) -> Llm {
        warnings.append(&mut self.warnings);
        Llm { warnings, ..self }
    }

    /// Loads a plan onto its device.
    fn start(
        driver: &Driver,
        file: PlanFile,
        options: &LoadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Llm, Error> {
        progress.phase("loading plan");
        let start = Instant::now();
        let file = Arc::new(file);
        let session = driver.executor(&file.plan().target, options.run)?.load(Arc::clone(&file))?;
        let engine = Engine::with_settings(Arc::clone(&file), session, options.engine.clone())?;
        let tokenizer = file.plan().files.iter().find(|text| text.name == "tokenizer.json");
        let tokenizer = tokenizer.map(|text| Tokenizer::from_bytes(&text.bytes)).transpose()?.map(Arc::new);
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let slow = file.plan().target == "cpu" && !runtime::cpu::OPTIMIZED;
        let warnings: Vec<String> = slow.then(|| UNOPTIMIZED.to_owned()).into_iter().collect();
        warnings.iter().for_each(|warning| progress.warning(warning));
        Ok(Llm { file, engine, tokenizer, load_ms, warnings, target_reason: None })
    }

    /// The plan.
    pub fn plan(&self) -> &PlanFile {
        &self.file
    }

    /// Warnings of a checkpoint's compilation, or of opening it for a cached plan: ignored keys and tensors, slow
    /// kernels. A plan file has none of these.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Why the target was chosen, if it was not named, and a checkpoint was compiled: the name of the GPU, or what keeps
    /// this machine from using one.
    pub fn target_reason(&self) -> Option<&str> {
        self.target_reason.as_deref()
    }

    /// Time from opening the plan file to the first possible step, in milliseconds.
    pub fn load_ms(&self) -> f64 {
        self.load_ms
    }

    /// Maximum number of tokens that can be generated after a prompt of this length.
    pub fn room_for(&self, prompt_tokens: usize) -> u32 {
        let plan = self.file.plan();
        let cached = plan.kv.iter().map(|group| group.blocks.saturating_mul(group.block_tokens)).min();
        let most = plan.limits.max_seq_len.min(cached.unwrap_or(u32::MAX));
        most.saturating_sub(u32::try_from(prompt_tokens).unwrap_or(u32::MAX))
    }

    /// Requests that run together, from now on.
    pub fn requests(&mut self) -> Requests<'_> {
        Requests::new(&mut self.engine, self.tokenizer.as_ref())
    }

    /// The plan, the tokenizer and the engine.
    pub(crate) fn into_parts(self) -> (Arc<PlanFile>, Option<Arc<Tokenizer>>, Engine) {
        (self.file, self.tokenizer, self.engine)
    }

    /// Generates from each prompt, all in one batch.
    pub fn generate(&mut self, prompts: &[Prompt], params: &GenerationParams) -> Result<Vec<Generation>, Error> {
        self.generate_with(prompts, params, &mut |_| {}).map(|(generations, _)| generations)
    }

    /// Generates from each prompt and calls back for each token. Timings are those of the whole batch.
    pub fn generate_with(
        &mut self,
        prompts: &[Prompt],
        params: &GenerationParams,
        on_token: &mut dyn FnMut(NewToken),
    ) -> Result<(Vec<Generation>, GenerateTimings), Error> {
        let prompts: Vec<Prompt> =
            prompts.iter().map(|prompt| Ok(Prompt::Tokens(self.tokens(prompt)?))).collect::<Result<_, Error>>()?;
        let load_ms = self.load_ms;
        let start = Instant::now();
        let mut first = None;
        let mut requests = self.requests();
        let submitted = prompts.iter().map(|prompt| requests.submit(prompt, params, 0));
        let ids: Vec<RequestId> = submitted.collect::<Result<_, Error>>()?;
        let places: HashMap<RequestId, usize> = ids.into_iter().zip(0..).collect();
        let mut generations: Vec<Option<Generation>> = vec![None; prompts.len()];
        while requests.open() > 0 {
            for answer in requests.step() {
                let Answer { request, at, token, text, end } = answer;
                let Some(&prompt) = places.get(&request) else { continue };
                if let Some(id) = token {
                    first.get_or_insert(at);
                    on_token(NewToken { prompt, id, at, text });
                }
                if let Some(end) = end {
                    generations[prompt] = Some(end?.0);
                }
            }
        }
        let end = Instant::now();
        let generations: Vec<Generation> = generations.into_iter().flatten().collect();
        let later = generations.iter().map(|generation| generation.token_ids.len().saturating_sub(1)).sum::<usize>();
        let timings = timings(start, first.unwrap_or(end), end, later + 1);
        Ok((generations, GenerateTimings { load_ms, ..timings }))
    }

    /// A prompt as tokens, with the tokenizer's special tokens.
    pub fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        tokens(self.tokenizer.as_ref(), prompt)
    }
}

impl std::fmt::Debug for Llm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Llm").field("plan", &self.file.path()).finish_non_exhaustive()
    }
}
