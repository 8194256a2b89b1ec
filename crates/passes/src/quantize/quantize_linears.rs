//! The pass that quantizes linear layers to a format.

use std::borrow::Cow;
use std::sync::Arc;

use ir::{Graph, Rule, rewrite};

use super::by_input::{find, inputs};
use super::format_info::InputGroup;
use super::nearest::{nearest, with_static_scale};
use super::{ActivationScales, Format, Layers};
use crate::{Changed, Numerics, Pass, PassContext, PassError};

impl Format {
    /// The pass that quantizes linear layers to this format, with this source of activation scales if it allows a choice.
    pub fn pass(self, layers: Layers, activations: ActivationScales) -> Arc<dyn Pass> {
        Arc::new(QuantizeLinears { format: self, layers, activations, search: true })
    }

    /// The pass to values of the same types, all rounded to nearest: a search changes values, not the speed of a
    /// product.
    pub fn nearest(self, layers: Layers) -> Arc<dyn Pass> {
        Arc::new(QuantizeLinears { format: self, layers, activations: ActivationScales::Dynamic, search: false })
    }
}

#[derive(Clone, Debug)]
struct QuantizeLinears {
    format: Format,
    layers: Layers,
    activations: ActivationScales,
    /// Whether values are chosen as the format says, not all rounded to nearest.
    search: bool,
}

impl Pass for QuantizeLinears {
    fn name(&self) -> Cow<'static, str> {
        format!("quantize-{}", self.format).into()
    }

    fn summary(&self) -> &'static str {
        self.format.help()
    }

    fn needs_calibration(&self) -> bool {
        self.search && self.format.needs_calibration(self.activations)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Quantizing { percent: self.format.info().percent }
    }

    fn run(&self, graph: &mut Graph, ctx: &PassContext<'_>) -> Result<Changed, PassError> {
        let format = self.format.info();
        if !self.needs_calibration() {
            let nearest = |graph: &Graph, id| match self.layers.contain(graph, id) {
                true => nearest(graph, id, &format),
                false => None,
            };
            return Ok((rewrite(graph, &[Rule { name: format.name, apply: &nearest }])? > 0).into());
        }
        let quantize = format.search.unwrap_or(with_static_scale);
        let inputs = inputs(graph, &self.layers);
        for name in &inputs {
            let x = find(graph, name)?;
            let group = InputGroup { x, layers: &self.layers, activations: self.activations, format: &format, ctx };
            quantize(graph, &group)?;
        }
        Ok((!inputs.is_empty()).into())
    }
}
