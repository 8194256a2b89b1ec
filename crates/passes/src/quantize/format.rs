//! The formats of linear layers, one row each.

use std::fmt;
use std::str::FromStr;

use ir::DType;
use ir::ops::QuantizeBlocks;

use super::format_info::FormatInfo;
use super::nearest::GROUP;
use super::{ActivationScales, awq, gptq, smoothquant};

macro_rules! formats {
    ($($(#[doc = $help:literal])+ $format:ident = $name:literal { $($field:ident: $value:expr),+ $(,)? })+) => {
        /// How a linear layer's operands are stored, and how their values are chosen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Format {
            $($(#[doc = $help])+ $format,)+
        }

        impl Format {
            /// All of them.
            pub const ALL: [Format; [$($name),+].len()] = [$(Format::$format),+];

            pub(crate) fn info(self) -> FormatInfo {
                match self {
                    $(Format::$format => FormatInfo {
                        name: $name,
                        help: concat!($($help),+).trim_start(),
                        $($field: $value),+
                    },)+
                }
            }
        }
    };
}

// The percentages are one and a half times what the filetests find, or more: 0.5 for 8 bits, 3.6 for three bits of
// mantissa on both sides, 10.5 for 4 bits. Searches are given a calibration with an outlier that the inputs lack: 4.7 for
// SmoothQuant, 34 for the three layers of an MLP by AWQ, 22 by GPTQ, which trades it for the others.
formats! {
    /// 8-bit integer weights, scales per output.
    Int8Weight = "int8-weight" {
        also: &["int8-wo", "w8a16"], weight: rows(DType::I8), activations: None, search: None, percent: 2
    }
    /// 8-bit integer weights and activations, scales per output and per token, with channel scaling. (SmoothQuant,
    /// arXiv 2211.10438.)
    Int8Smoothquant = "int8-smoothquant" {
        also: &["int8-sq", "smoothquant", "w8a8-sq"],
        weight: rows(DType::I8), activations: Some(rows(DType::I8)), search: Some(smoothquant::quantize), percent: 7
    }
    /// E4M3 weights and activations, scales per output and per token.
    Fp8 = "fp8" {
        also: &["fp8-e4m3", "f8e4m3", "w8a8-fp8"],
        weight: rows(DType::F8E4M3), activations: Some(rows(DType::F8E4M3)), search: None, percent: 6
    }
    /// E4M3 weights and activations, scales per 128 x 128 weights and per 128 activations. (DeepSeek-V3, arXiv
    /// 2412.19437.)
    Fp8Block = "fp8-block" {
        also: &["fp8-block-scales", "fp8-blockwise"],
        weight: blocks(DType::F8E4M3, Some(GROUP)), activations: Some(blocks(DType::F8E4M3, None)), search: None, percent: 6
    }
    /// 4-bit weights in groups of 128, rounded to nearest.
    Int4 = "int4" {
        also: &["int4-wo", "w4a16"], weight: blocks(DType::I4, None), activations: None, search: None, percent: 16
    }
    /// 4-bit weights in groups of 128 with channel scaling. (AWQ, arXiv 2306.00978.)
    Int4Awq = "int4-awq" {
        also: &["awq", "w4a16-awq"],
        weight: blocks(DType::I4, None), activations: None, search: Some(awq::quantize), percent: 50
    }
    /// 4-bit weights in groups of 128 with error compensation. (GPTQ, arXiv 2210.17323.)
    Int4Gptq = "int4-gptq" {
        also: &["gptq", "w4a16-gptq"],
        weight: blocks(DType::I4, None), activations: None, search: Some(gptq::quantize), percent: 34
    }
}

/// A scale per row.
fn rows(to: DType) -> QuantizeBlocks {
    QuantizeBlocks { to, rows: None, cols: None }
}

/// A scale per group of columns of so many rows.
fn blocks(to: DType, rows: Option<u32>) -> QuantizeBlocks {
    QuantizeBlocks { to, rows, cols: Some(GROUP) }
}

impl Format {
    /// The name on the command line and in tables.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// What it is, in a few words.
    pub fn help(self) -> &'static str {
        self.info().help
    }

    /// Whether activations are quantized to 8 bits, too.
    pub fn narrow_activations(self) -> bool {
        self.info().activations.is_some()
    }

    /// Whether activations can have one scale per tensor instead of one per token.
    pub fn allows_static_scales(self) -> bool {
        self.info().activations.is_some_and(|activations| activations.cols.is_none())
    }

    /// Whether the format needs activation statistics.
    pub fn needs_calibration(self, activations: ActivationScales) -> bool {
        self.info().search.is_some() || (self.allows_static_scales() && activations == ActivationScales::Static)
    }

    /// Bits per weight, scales included, for rows of `width` columns.
    pub fn weight_bits(self, width: u64) -> f64 {
        let QuantizeBlocks { to, rows, cols } = self.info().weight;
        let per_scale = rows.map_or(1, u64::from) * cols.map_or(width.max(1), u64::from);
        let bits = if to == DType::I4 { 4.0 } else { 8.0 };
        bits + 32.0 / per_scale as f64
    }

    /// The names of those that match, as in `fp8, int4 or int4-awq`.
    pub fn names(matching: impl Fn(Format) -> bool) -> String {
        let names: Vec<&str> = Format::ALL.into_iter().filter(|format| matching(*format)).map(Format::name).collect();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    /// By its name, or by one that it has elsewhere, in capitals and with underscores, too.
    fn from_str(text: &str) -> Result<Format, String> {
        let plain = text.to_ascii_lowercase().replace('_', "-");
        let found = Format::ALL.into_iter().find(|format| {
            let info = format.info();
            info.name == plain || info.also.contains(&plain.as_str())
        });
        found.ok_or_else(|| {
            let names = Format::ALL.map(Format::name);
            let meant = match plain.as_str() {
                "int8" | "w8a8" => {
                    " (did you mean `int8-weight` (weights alone) or `int8-smoothquant` (activations, too)?)".to_owned()
                }
                _ => ir::text::suggestion(&plain, names),
            };
            format!("unknown format `{text}`{meant}, expected one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn formats_are_known_by_their_names_elsewhere() {
        for (text, name) in
            [("int4_awq", "int4-awq"), ("W4A16", "int4"), ("int8_sq", "int8-smoothquant"), ("fp8_e4m3", "fp8")]
        {
            assert_eq!(text.parse::<Format>().map(Format::name), Ok(name));
        }
        let names: Vec<&str> = Format::ALL.iter().flat_map(|f| [&[f.info().name], f.info().also].concat()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name for two formats");
        let error = |text: &str| text.parse::<Format>().unwrap_err();
        assert!(error("fp9").starts_with("unknown format `fp9` (did you mean `fp8`?), expected one of int8-weight"));
        let both = "(did you mean `int8-weight` (weights alone) or `int8-smoothquant` (activations, too)?)";
        assert!(error("int8").contains(both), "{}", error("int8"));
        assert!(error("nvfp4").starts_with("unknown format `nvfp4`, expected one of"), "{}", error("nvfp4"));
    }
}
