//! The formats of linear layers.

use std::fmt;
use std::str::FromStr;

/// How a linear layer's operands are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// 8-bit integer weights, scales per output.
    Int8Weight,
    /// 8-bit integer weights and activations, scales per output and per token, with channel scaling. (SmoothQuant,
    /// arXiv 2211.10438.)
    Int8Smoothquant,
    /// E4M3 weights and activations, scales per output and per token.
    Fp8,
    /// E4M3 weights and activations, scales per 128 x 128 weights and per 128 activations. (DeepSeek-V3, arXiv
    /// 2412.19437.)
    Fp8Block,
    /// 4-bit weights in groups of 128, rounded to nearest.
    Int4,
    /// 4-bit weights in groups of 128 with channel scaling. (AWQ, arXiv 2306.00978.)
    Int4Awq,
    /// 4-bit weights in groups of 128 with error compensation. (GPTQ, arXiv 2210.17323.)
    Int4Gptq,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 7] = [
        Format::Int8Weight,
        Format::Int8Smoothquant,
        Format::Fp8,
        Format::Fp8Block,
        Format::Int4,
        Format::Int4Awq,
        Format::Int4Gptq,
    ];

    /// The name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Format::Int8Weight => "int8-weight",
            Format::Int8Smoothquant => "int8-smoothquant",
            Format::Fp8 => "fp8",
            Format::Fp8Block => "fp8-block",
            Format::Int4 => "int4",
            Format::Int4Awq => "int4-awq",
            Format::Int4Gptq => "int4-gptq",
        }
    }

    /// Whether activations are quantized to 8 bits, too.
    pub fn narrow_activations(self) -> bool {
        matches!(self, Format::Int8Smoothquant | Format::Fp8 | Format::Fp8Block)
    }

    /// Bits per weight, scales included, for rows of `width` columns.
    pub fn weight_bits(self, width: u64) -> f64 {
        let per_row = 32.0 / width.max(1) as f64;
        match self {
            Format::Int8Weight | Format::Int8Smoothquant | Format::Fp8 => 8.0 + per_row,
            Format::Fp8Block => 8.0 + 32.0 / (128.0 * 128.0),
            Format::Int4 | Format::Int4Awq | Format::Int4Gptq => 4.0 + 32.0 / 128.0,
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

    fn from_str(text: &str) -> Result<Format, String> {
        let names = || Format::ALL.map(Format::name).join(", ");
        let found = Format::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("unknown format `{text}`, expected one of {}", names()))
    }
}
