//! Seeded rows for the inputs of a graph's linear layers and for its KV cache.

use std::collections::BTreeMap;

use ir::Graph;
use passes::calibration::{Activations, Calibration, ClipMethod, Rows, TensorStats, observed};
use plan::RandomPart;

/// Rows that are kept of each tensor.
const ROWS: usize = 24;
/// The factor of one channel, so that searches have something to find.
const OUTLIER: usize = 1;

/// Random activations by their names, one channel of each an outlier.
#[derive(Clone, Debug)]
pub struct SeededActivations {
    rows: BTreeMap<String, Rows>,
}

impl SeededActivations {
    /// Those of a graph's linears and cache.
    pub fn of(graph: &Graph) -> SeededActivations {
        let rows = |name: &str, channels: usize| {
            let part = RandomPart::named(name, (ROWS * channels) as u64, 0.0, 1.0);
            let mut values: Vec<f32> = (0..(ROWS * channels) as u64).map(|index| part.value(index)).collect();
            values.chunks_exact_mut(channels).for_each(|row| row[OUTLIER % channels] *= 64.0);
            Rows { channels, values }
        };
        let named = observed(graph).into_iter().filter_map(|seen| {
            let channels = graph.tensor(seen.value)?.width().filter(|channels| *channels > 0)?;
            let name = graph.value_name(seen.value);
            Some((name.to_owned(), rows(name, channels as usize)))
        });
        SeededActivations { rows: named.collect() }
    }

    /// Their statistics.
    pub fn calibration(&self) -> Calibration {
        let mut calibration = Calibration::new("seeded", 1, ClipMethod::MinMax);
        let stats = self.rows.iter().map(|(name, rows)| (name.clone(), TensorStats::of(rows.channels, &rows.values)));
        calibration.tensors = stats.collect();
        calibration
    }
}

impl Activations for SeededActivations {
    fn rows(&self, tensor: &str) -> Option<Rows> {
        self.rows.get(tensor).cloned()
    }

    fn hessian(&self, _: &str) -> Option<Vec<f32>> {
        None
    }
}
