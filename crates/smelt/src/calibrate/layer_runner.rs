//! Runs the layers in order over all samples, through an executor.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use codegen::{CodegenError, Target};
use passes::calibration::TensorStats;
use plan::input::InputFile;
use plan::{Bindings, ExecError, Executor, InputData, PlanFile, PortData, Program, ProgramKind, Session, StepId};
use rayon::prelude::*;

use super::CalibrateOptions;
use super::activation_writer::ActivationWriter;
use super::hessian::Hessian;
use super::resume::State;
use super::samples::Samples;
use super::segments::{Segment, Tensor};
use crate::{Compilation, CompileOptions, Driver, Error, Progress, Quiet, Source, TargetChoice};

/// Runs layers; shared by all of them.
pub(super) struct LayerRunner<'a> {
    /// Holds passes and kernels; caches compiled ones.
    pub driver: Driver,
    pub source: &'a Source,
    pub compile: CompileOptions,
    pub segments: &'a [Segment],
    pub samples: &'a Samples,
    pub writer: &'a ActivationWriter,
    pub options: &'a CalibrateOptions,
}

/// How layers are compiled: one sample per step, all rows of its logits.
pub(super) fn compile_options(target: Target, max_len: u32) -> CompileOptions {
    CompileOptions {
        target: TargetChoice::Named(target.name().to_owned()),
        max_batch_size: Some(1),
        max_seq_len: Some(max_len),
        max_num_tokens: Some(max_len),
        max_logit_rows: Some(max_len),
        ..CompileOptions::default()
    }
}

/// A layer on a device.
struct Layer {
    session: Box<dyn Session>,
    file: Arc<PlanFile>,
    program: usize,
}

impl LayerRunner<'_> {
    /// Runs the next layer over the remaining samples.
    pub fn run(&self, executor: &dyn Executor, state: &mut State, progress: &mut dyn Progress) -> Result<(), Error> {
        let index = state.segment;
        let segment = &self.segments[index];
        let mut layer = self.load(segment, executor, state.folder())?;
        let mut source = match &segment.input {
            Some(port) => Some(Hidden::open(&state.hidden(index - 1), self.offset(state.samples, port.width))?),
            None => None,
        };
        let mut sink = match &segment.output {
            Some(port) => Some(Sink::open(&state.hidden(index), self.offset(state.samples, port.width))?),
            None => None,
        };
        let mut hessians: Vec<(&Tensor, Hessian)> = Vec::new();
        if self.options.hessian {
            let wanted = segment.tensors.iter().filter(|tensor| tensor.by_linear);
            hessians.extend(wanted.map(|tensor| (tensor, Hessian::new(tensor.channels))));
        }
        let (count, total) = (self.samples.len(), self.samples.len() * self.segments.len());
        let mut saved = Instant::now();
        for sample in state.samples..count {
            progress.items((index * count + sample) as u64, total as u64);
            let tokens = self.samples.get(sample);
            let hidden = match (&mut source, &segment.input) {
                (Some(source), Some(port)) => Some((port.name.as_str(), source.read(tokens.len() * port.width)?)),
                _ => None,
            };
            let step = self.step(&mut layer, tokens, hidden.as_ref().map(|(name, values)| (*name, &values[..])))?;
            let mut read = |name: &str| floats(layer.session.read(step, name)?);
            let values = segment.tensors.iter().map(|tensor| read(&tensor.name));
            let values = values.collect::<Result<Vec<_>, Error>>()?;
            if let (Some(sink), Some(port)) = (&mut sink, &segment.output) {
                sink.write(&read(&port.name)?)?;
            }
            let seen: Vec<TensorStats> = segment
                .tensors
                .par_iter()
                .zip(&values)
                .map(|(tensor, values)| TensorStats::of(tensor.channels, values))
                .collect();
            for ((tensor, values), stats) in segment.tensors.iter().zip(&values).zip(seen) {
                self.look(sample, tensor, values, stats, state)?;
                if let Some((_, hessian)) = hessians.iter_mut().find(|(known, _)| known.name == tensor.name) {
                    hessian.add(values);
                }
            }
            state.samples = sample + 1;
            // sums of Hessians are too large to be saved in between: a layer with them starts over
            if hessians.is_empty() && saved.elapsed() >= self.options.save_every && state.samples < count {
                if let Some(sink) = &mut sink {
                    sink.flush()?;
                }
                state.save()?;
                saved = Instant::now();
            }
        }
        if let Some(sink) = &mut sink {
            sink.flush()?;
        }
        for (tensor, hessian) in hessians {
            let mean = hessian.mean(self.samples.tokens());
            let written = self.writer.write_hessian(&mut state.activations, &tensor.name, &mean);
            written.map_err(|error| Error::Io { path: state.folder().to_owned(), error })?;
        }
        state.next_segment()
    }

    /// Adds a sample's values of a tensor.
    fn look(
        &self,
        sample: usize,
        tensor: &Tensor,
        values: &[f32],
        stats: TensorStats,
        state: &mut State,
    ) -> Result<(), Error> {
        let name = &tensor.name;
        if stats.nan > 0 {
            return Err(Error::BadInput(format!(
                "`{name}`: {} of {} values are not finite in sample {sample}, counted from 0: expected weights and a \
             dtype with which activations are finite",
                stats.nan,
                values.len()
            )));
        }
        for (place, kept) in self.samples.kept.iter().enumerate().filter(|(_, kept)| kept.sample == sample) {
            let row = &values[kept.position * tensor.channels..(kept.position + 1) * tensor.channels];
            let written = self.writer.write_row(&mut state.activations, name, place, row);
            written.map_err(|error| Error::Io { path: state.folder().to_owned(), error })?;
        }
        let channels = tensor.channels;
        let sum = state.calibration.tensors.entry(name.clone()).or_insert_with(|| TensorStats::new(channels));
        sum.merge(&stats).map_err(|error| Error::BadInput(format!("`{name}`: {error}")))
    }

    /// The index of a sample's first row among all rows.
    fn offset(&self, sample: usize, width: usize) -> u64 {
        let tokens: usize = (0..sample).map(|sample| self.samples.get(sample).len()).sum();
        (tokens * width * 4) as u64
    }

    /// Compiles a layer and loads it onto the device.
    fn load(&self, segment: &Segment, executor: &dyn Executor, folder: &Path) -> Result<Layer, Error> {
        let path = folder.join("layer.plan");
        let mut quiet = Quiet;
        let compilation = Compilation::new(&self.driver, self.source, &self.compile, &mut quiet)?;
        compilation.part(segment.graph.clone()).lowered()?.build()?.write(&path)?;
        let file = Arc::new(PlanFile::open(&path)?);
        let mixed = file.plan().programs.iter().rposition(|program| program.kind == ProgramKind::Mixed);
        let program = mixed.ok_or_else(|| CodegenError::Graph("the layer has no mixed program".to_owned()))?;
        Ok(Layer { session: executor.load(Arc::clone(&file))?, file, program })
    }

    /// Runs a layer over a sample.
    fn step(&self, layer: &mut Layer, tokens: &[i32], hidden: Option<(&str, &[f32])>) -> Result<StepId, Error> {
        let file = Arc::clone(&layer.file);
        let program: &Program = &file.plan().programs[layer.program];
        let count = tokens.len() as i32;
        let places: Vec<i32> = (0..count).collect();
        let kv_blocks = file.plan().kv.iter().map(|group| group.blocks).max().unwrap_or(0);
        let blocks: Vec<i32> = (0..kv_blocks as i32).collect();
        let starts = [0, count];
        let mut inputs = vec![
            ("tokens", InputData::Values(tokens)),
            ("positions", InputData::Values(&places)),
            ("query_starts", InputData::Values(&starts)),
            ("block_table", InputData::Values(&blocks)),
            ("rows", InputData::Values(&places)),
        ];
        inputs.extend(hidden.map(|(name, values)| (name, InputData::Floats(values))));
        inputs.retain(|(name, _)| program.inputs.iter().any(|port| port.name == *name));
        let size = |name: &str| if name == "B" { 1 } else { tokens.len() as u64 };
        let symbols = program.symbols.iter().map(|decl| (decl.symbol.clone(), size(decl.symbol.name())));
        let symbols = symbols.collect();
        Ok(layer.session.submit(layer.program, &Bindings { symbols: &symbols, inputs: &inputs })?)
    }
}

fn floats(data: PortData) -> Result<Vec<f32>, Error> {
    match data {
        PortData::F32(values) => Ok(values),
        PortData::I32(_) => {
            Err(ExecError::Unsupported("calibration observes floating-point tensors".to_owned()).into())
        }
    }
}

/// The output of the previous layer, read in order.
struct Hidden {
    file: BufReader<File>,
    path: std::path::PathBuf,
}

impl Hidden {
    fn open(path: &Path, offset: u64) -> Result<Hidden, Error> {
        let io = |error| Error::Io { path: path.to_owned(), error };
        let mut file = BufReader::new(InputFile::open(path).map_err(io)?.into_file());
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        Ok(Hidden { file, path: path.to_owned() })
    }

    fn read(&mut self, values: usize) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; values * 4];
        self.file.read_exact(&mut bytes).map_err(|error| Error::Io { path: self.path.clone(), error })?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|cell| f32::from_le_bytes(*cell)).collect())
    }
}

/// The input of the next layer.
struct Sink {
    file: BufWriter<File>,
    path: std::path::PathBuf,
}

impl Sink {
    /// Continues at an offset; anything after it is overwritten.
    fn open(path: &Path, offset: u64) -> Result<Sink, Error> {
        let io = |error| Error::Io { path: path.to_owned(), error };
        let mut file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        Ok(Sink { file: BufWriter::new(file), path: path.to_owned() })
    }

    fn write(&mut self, values: &[f32]) -> Result<(), Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.file.write_all(&bytes).map_err(|error| Error::Io { path: self.path.clone(), error })
    }

    /// Syncs to disk.
    fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        flushed.map_err(|error| Error::Io { path: self.path.clone(), error })
    }
}
