//! Options of trtllm-build that mean nothing here, or that another option stands for. `smelt build` takes them, so that a
//! line that works there says here what to change, if anything.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::failure::Failure;
use crate::output::print_error;

/// What becomes of an option.
enum Meaning {
    /// It is ignored, for this reason.
    Ignored(&'static str),
    /// It is ignored with these values, as it is there by default; anything else would be another plan.
    Only(&'static [&'static str], &'static str),
    /// It would be another plan: this is what to write instead.
    Instead(&'static str),
}
use Meaning::{Ignored, Instead, Only};

const CHOOSES: &str = "smelt selects kernels and fusions itself (`smelt compile --emit kernels` shows them)";
const ONE_GPU: &str = "a plan runs on one GPU";
const PRECISION: &str = "write --precision FORMAT, such as int8-weight, int4-awq or fp8";
const KV_PRECISION: &str = "write --kv-precision FORMAT, such as fp8 or int8";
const LOGITS: &str = "`smelt generate --logits` writes them with any plan";
const TIMINGS: &str = "write --timing-cache FILE: it is read if it exists, written if not";

const OPTIONS: &[(&str, Meaning)] = &[
    ("auto-parallel", Only(&["1"], ONE_GPU)),
    ("bert-attention-plugin", Ignored(CHOOSES)),
    ("builder-opt", Ignored(CHOOSES)),
    ("context-fmha", Ignored(CHOOSES)),
    ("cp-size", Only(&["1"], ONE_GPU)),
    ("fast-build", Ignored("compiling takes seconds")),
    ("fp8-kv-cache", Instead(KV_PRECISION)),
    ("gather-all-token-logits", Ignored(LOGITS)),
    ("gather-context-logits", Ignored(LOGITS)),
    ("gather-generation-logits", Ignored(LOGITS)),
    ("gemm-plugin", Ignored(CHOOSES)),
    ("gemm-swiglu-plugin", Ignored(CHOOSES)),
    ("gpt-attention-plugin", Ignored(CHOOSES)),
    ("input-timing-cache", Instead(TIMINGS)),
    ("int8-kv-cache", Instead(KV_PRECISION)),
    ("kv-cache-type", Only(&["paged"], "the KV cache is always paged")),
    ("log-level", Ignored("progress and warnings go to stderr, all of them")),
    ("logits-dtype", Only(&["float32", "fp32", "f32"], "logits are f32")),
    ("lora-dir", Instead("LoRA adapters are not supported: merge them into the checkpoint")),
    ("lora-plugin", Only(&["disable"], "LoRA adapters are not supported")),
    ("low-latency-gemm-plugin", Ignored(CHOOSES)),
    ("max-beam-width", Only(&["1"], "a plan has no beams")),
    ("moe-plugin", Ignored(CHOOSES)),
    ("monitor-memory", Ignored("the report has the memory of the plan")),
    ("multi-block-mode", Ignored(CHOOSES)),
    ("multiple-profiles", Ignored("a plan has a program for each range of sizes")),
    ("nccl-plugin", Ignored(ONE_GPU)),
    ("opt-batch-size", Ignored("a plan has a program for each range of sizes")),
    ("opt-num-tokens", Ignored("a plan has a program for each range of sizes")),
    ("output-timing-cache", Instead(TIMINGS)),
    ("paged-kv-cache", Only(&["enable", "true"], "the KV cache is always paged")),
    ("pp-size", Only(&["1"], ONE_GPU)),
    ("profiling-verbosity", Ignored("`smelt inspect` shows every launch of a plan")),
    ("qformat", Instead(PRECISION)),
    ("quant-mode", Instead(PRECISION)),
    ("reduce-fusion", Ignored(CHOOSES)),
    ("remove-input-padding", Ignored("sequences are always packed without padding")),
    ("speculative-decoding-mode", Only(&["none"], "there is no speculative decoding")),
    ("strongly-typed", Ignored("a plan always has the types of its graph")),
    ("tokens-per-block", Only(&["64"], "a block of the KV cache has 64 tokens")),
    ("tp-size", Only(&["1"], ONE_GPU)),
    ("use-fp8-context-fmha", Ignored(CHOOSES)),
    ("use-fused-mlp", Ignored(CHOOSES)),
    ("use-paged-context-fmha", Ignored(CHOOSES)),
    ("use-weight-only", Instead("write --precision int8-weight or int4")),
    ("weight-only-precision", Instead("write --precision int8-weight or int4")),
    ("workers", Ignored("compiling uses all cores")),
    ("world-size", Only(&["1"], ONE_GPU)),
];

/// Those that were given, each with its value.
#[derive(Clone, Debug, Default)]
pub struct TrtllmArgs {
    given: Vec<(&'static str, Option<String>)>,
}

impl Args for TrtllmArgs {
    fn augment_args(command: Command) -> Command {
        let arg = |(name, _): &(&'static str, Meaning)| {
            Arg::new(*name).long(*name).value_name("VALUE").num_args(0..=1).default_missing_value("").hide(true)
        };
        OPTIONS.iter().map(arg).fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        TrtllmArgs::augment_args(command)
    }
}

impl FromArgMatches for TrtllmArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<TrtllmArgs, clap::Error> {
        let given = OPTIONS.iter().filter_map(|(name, _)| {
            let value = matches.get_one::<String>(name)?;
            Some((*name, Some(value.clone()).filter(|value| !value.is_empty())))
        });
        Ok(TrtllmArgs { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = TrtllmArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl TrtllmArgs {
    /// Says what is ignored; an error for what would be another plan.
    pub fn check(&self) -> Result<(), Failure> {
        for (name, value) in &self.given {
            let meaning = OPTIONS.iter().find(|(known, _)| known == name).map(|(_, meaning)| meaning);
            let ignored = match meaning {
                Some(Instead(what)) => return Err(Failure::usage(format!("--{name} does not exist here: {what}"))),
                Some(Only(values, reason)) => match value.as_deref() {
                    Some(value) if !values.contains(&value.to_ascii_lowercase().as_str()) => {
                        let expected = format!("expected --{name} {}, or nothing", values[0]);
                        return Err(Failure::usage(format!("--{name} {value}: {reason}, {expected}")));
                    }
                    _ => reason,
                },
                Some(Ignored(reason)) => reason,
                None => continue,
            };
            print_error(&format!("note: --{name} is ignored: {ignored}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_option_is_hidden() {
        assert!(OPTIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let command = TrtllmArgs::augment_args(Command::new("x"));
        assert_eq!(command.get_arguments().filter(|arg| arg.is_hide_set()).count(), OPTIONS.len());
    }
}
