//! The weights of the DiT by their names in the authors' checkpoint: to be trained, changed and saved.

use burn::tensor::Tensor;

use super::Dit;
use super::block::{Attention, Modulation};
use crate::cosmos::source::Projection;

/// Ends of the names of the layers that the authors adapt with LoRA (`lora_target_modules` of cosmos-predict2 1.0.9).
const ADAPTED: [&str; 6] = ["q_proj", "k_proj", "v_proj", "output_proj", "mlp.layer1", "mlp.layer2"];

/// The two layers of a modulation.
fn modulation<'a>(name: &str, part: &'a mut Modulation) -> [(String, &'a mut Projection); 2] {
    [(format!("{name}.1"), &mut part.down), (format!("{name}.2"), &mut part.up)]
}

/// The four layers of an attention.
fn attention<'a>(name: &str, part: &'a mut Attention) -> [(String, &'a mut Projection); 4] {
    [
        (format!("{name}.q_proj"), &mut part.query),
        (format!("{name}.k_proj"), &mut part.key),
        (format!("{name}.v_proj"), &mut part.value),
        (format!("{name}.output_proj"), &mut part.output),
    ]
}

impl Dit {
    /// Every linear layer with its name, without `.weight`, in a fixed order.
    pub fn layers(&mut self) -> Vec<(String, &mut Projection)> {
        let (first, second, _) = &mut self.time;
        let mut all = vec![
            ("x_embedder.proj.1".to_owned(), &mut self.patch),
            ("t_embedder.1.linear_1".to_owned(), first),
            ("t_embedder.1.linear_2".to_owned(), second),
        ];
        for (index, block) in self.blocks.iter_mut().enumerate() {
            let name = |part: &str| format!("blocks.{index}.{part}");
            let (shift, up, down) = &mut block.perceptron;
            all.extend(modulation(&name("adaln_modulation_self_attn"), &mut block.own.0));
            all.extend(attention(&name("self_attn"), &mut block.own.1));
            all.extend(modulation(&name("adaln_modulation_cross_attn"), &mut block.words.0));
            all.extend(attention(&name("cross_attn"), &mut block.words.1));
            all.extend(modulation(&name("adaln_modulation_mlp"), shift));
            all.extend([(name("mlp.layer1"), up), (name("mlp.layer2"), down)]);
        }
        all.extend(modulation("final_layer.adaln_modulation", &mut self.last.0));
        all.push(("final_layer.linear".to_owned(), &mut self.last.1));
        all
    }

    /// The factors of every norm with its name, without `.weight`, in a fixed order.
    pub fn norms(&mut self) -> Vec<(String, &mut Tensor<1>)> {
        let mut all = vec![("t_embedding_norm".to_owned(), &mut self.time.2.0)];
        for (index, block) in self.blocks.iter_mut().enumerate() {
            for (part, attention) in [("self_attn", &mut block.own.1), ("cross_attn", &mut block.words.1)] {
                all.push((format!("blocks.{index}.{part}.q_norm"), &mut attention.query_norm.0));
                all.push((format!("blocks.{index}.{part}.k_norm"), &mut attention.key_norm.0));
            }
        }
        all
    }

    /// Names and sizes `[out, in]` of the layers that LoRA adapts: queries, keys, values and outputs of both attentions, and
    /// the perceptrons.
    pub fn adaptable(&self) -> Vec<(String, [usize; 2])> {
        // The layers are handed out to be changed, so they are those of a clone, whose weights are shared.
        let mut dit = self.clone();
        let layers = dit.layers().into_iter().map(|(name, layer)| (name, layer.size()));
        layers.filter(|(name, _)| ADAPTED.iter().any(|end| name.ends_with(end))).collect()
    }
}
