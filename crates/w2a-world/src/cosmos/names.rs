//! Names of tensors: the authors' own, which are ours, and those of diffusers.

/// Diffusers' name of a part of the DiT, and ours. Longer names come first where one begins another.
const DIT: [(&str, &str); 24] = [
    ("patch_embed.proj", "x_embedder.proj.1"),
    ("time_embed.t_embedder", "t_embedder.1"),
    ("time_embed.norm", "t_embedding_norm"),
    ("transformer_blocks", "blocks"),
    ("norm1.linear_", "adaln_modulation_self_attn."),
    ("norm2.linear_", "adaln_modulation_cross_attn."),
    ("norm3.linear_", "adaln_modulation_mlp."),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_q", "q_proj"),
    ("to_k", "k_proj"),
    ("to_v", "v_proj"),
    ("to_out.0", "output_proj"),
    ("norm_q", "q_norm"),
    ("norm_k", "k_norm"),
    ("ff.net.0.proj", "mlp.layer1"),
    ("ff.net.2", "mlp.layer2"),
    ("norm_out.linear_", "final_layer.adaln_modulation."),
    ("proj_out", "final_layer.linear"),
    // Those of the authors stay as they are.
    ("x_embedder", "x_embedder"),
    ("t_embedder", "t_embedder"),
    ("t_embedding_norm", "t_embedding_norm"),
    ("blocks", "blocks"),
    ("final_layer", "final_layer"),
];

/// Which of the two sets of weights in a checkpoint of the authors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// `net.`, and `net_ema.` where there is no `net.`.
    #[default]
    Plain,
    /// `net_ema.`, the running average of a training.
    Average,
}

/// Our name of a tensor of a DiT; `None` for buffers and for the set that is not asked for. `has_plain` says whether the
/// checkpoint has any `net.`.
pub(crate) fn dit(name: &str, weighting: Weighting, has_plain: bool) -> Option<String> {
    let inner = match (name.strip_prefix("net."), name.strip_prefix("net_ema.")) {
        (Some(inner), _) => Some(inner).filter(|_| weighting == Weighting::Plain),
        (_, Some(inner)) => Some(inner).filter(|_| weighting == Weighting::Average || !has_plain),
        _ => Some(name),
    }?;
    let ours = theirs_to_ours(inner, &DIT)?;
    // The state of fused layers, and tables that are computed.
    let is_buffer = ours.ends_with("_extra_state") || ours.contains("pos_embedder");
    (!is_buffer).then_some(ours)
}

/// Replaces the parts of a dotted name, from left to right; `None` if it does not begin with any of them.
fn theirs_to_ours(name: &str, table: &[(&str, &str)]) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let found = table.iter().find(|(theirs, _)| {
            rest.strip_prefix(theirs)
                .is_some_and(|after| theirs.ends_with('_') || after.is_empty() || after.starts_with('.'))
        });
        match found {
            Some((theirs, ours)) => {
                out.push_str(ours);
                rest = &rest[theirs.len()..];
            }
            None if out.is_empty() => return None,
            None => {}
        }
        // The rest of this part, with its dot.
        let end = rest.find('.').map_or(rest.len(), |dot| dot + 1);
        out.push_str(&rest[..end]);
        rest = &rest[end..];
    }
    Some(out)
}

/// Our name of a tensor of the Wan VAE. `blocks` is the number of residual blocks of a stage of the encoder; by those of the
/// decoder, one more, diffusers groups what is one list here.
pub(crate) fn vae(name: &str, blocks: usize) -> Option<String> {
    let (side, rest) = match name.split_once('.')? {
        ("conv1" | "conv2", _) => return Some(name.to_owned()),
        ("quant_conv", rest) => return Some(format!("conv1.{rest}")),
        ("post_quant_conv", rest) => return Some(format!("conv2.{rest}")),
        (side @ ("encoder" | "decoder"), rest) => (side, rest),
        _ => return None,
    };
    let (part, inner) = rest.split_once('.')?;
    let ours = match part {
        "conv1" | "downsamples" | "upsamples" | "middle" | "head" => rest.to_owned(),
        "conv_in" => format!("conv1.{inner}"),
        "norm_out" => format!("head.0.{inner}"),
        "conv_out" => format!("head.2.{inner}"),
        "mid_block" => {
            let (kind, inner) = inner.split_once('.')?;
            let (index, inner) = inner.split_once('.')?;
            let index: usize = index.parse().ok()?;
            match kind {
                "attentions" => format!("middle.{}.{inner}", 2 * index + 1),
                "resnets" => format!("middle.{}.{}", 2 * index, residual(inner)),
                _ => return None,
            }
        }
        "down_blocks" => {
            let (index, inner) = inner.split_once('.')?;
            format!("downsamples.{index}.{}", residual(inner))
        }
        "up_blocks" => {
            let (stage, inner) = inner.split_once('.')?;
            let stage: usize = stage.parse().ok()?;
            let (kind, inner) = inner.split_once('.')?;
            let (index, inner) = inner.split_once('.')?;
            let index: usize = index.parse().ok()?;
            match kind {
                "resnets" => format!("upsamples.{}.{}", stage * (blocks + 2) + index, residual(inner)),
                "upsamplers" => format!("upsamples.{}.{inner}", stage * (blocks + 2) + blocks + 1),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(format!("{side}.{ours}"))
}

/// A part of a residual block by its place in the authors' list.
fn residual(name: &str) -> String {
    let (part, rest) = name.split_once('.').unwrap_or((name, ""));
    let place = match part {
        "norm1" => "residual.0",
        "conv1" => "residual.2",
        "norm2" => "residual.3",
        "conv2" => "residual.6",
        "conv_shortcut" => "shortcut",
        other => other,
    };
    format!("{place}.{rest}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DIT, Weighting, dit, vae};

    #[test]
    fn both_layouts_of_the_dit_come_to_the_authors_names() {
        let plain = |name: &str| dit(name, Weighting::Plain, true);
        for (theirs, ours) in [
            ("patch_embed.proj.weight", "x_embedder.proj.1.weight"),
            ("time_embed.t_embedder.linear_1.weight", "t_embedder.1.linear_1.weight"),
            ("time_embed.norm.weight", "t_embedding_norm.weight"),
            ("transformer_blocks.27.norm2.linear_1.weight", "blocks.27.adaln_modulation_cross_attn.1.weight"),
            ("transformer_blocks.0.attn1.to_out.0.weight", "blocks.0.self_attn.output_proj.weight"),
            ("transformer_blocks.0.attn2.norm_q.weight", "blocks.0.cross_attn.q_norm.weight"),
            ("transformer_blocks.3.ff.net.0.proj.weight", "blocks.3.mlp.layer1.weight"),
            ("transformer_blocks.3.ff.net.2.weight", "blocks.3.mlp.layer2.weight"),
            ("norm_out.linear_2.weight", "final_layer.adaln_modulation.2.weight"),
            ("proj_out.weight", "final_layer.linear.weight"),
            ("net.blocks.1.mlp.layer2.weight", "blocks.1.mlp.layer2.weight"),
            ("blocks.1.self_attn.k_norm.weight", "blocks.1.self_attn.k_norm.weight"),
        ] {
            assert_eq!(plain(theirs).as_deref(), Some(ours));
        }
        for nothing in [
            "net.pos_embedder.seq",
            "net.accum_iteration",
            "net.blocks.0.self_attn.attn_op._extra_state",
            "net_ema.blocks.0.mlp.layer1.weight",
            "resnet.conv1.weight",
        ] {
            assert_eq!(plain(nothing), None, "{nothing}");
        }
        let average = |name: &str, has_plain| dit(name, Weighting::Average, has_plain);
        assert_eq!(average("net_ema.t_embedding_norm.weight", true).as_deref(), Some("t_embedding_norm.weight"));
        assert_eq!(average("net.t_embedding_norm.weight", true), None);
        assert!(dit("net_ema.t_embedding_norm.weight", Weighting::Plain, false).is_some());
    }

    #[test]
    fn both_layouts_of_the_vae_come_to_the_authors_names() {
        for (theirs, ours) in [
            ("encoder.conv_in.weight", "encoder.conv1.weight"),
            ("encoder.down_blocks.3.conv_shortcut.bias", "encoder.downsamples.3.shortcut.bias"),
            ("encoder.down_blocks.3.norm1.gamma", "encoder.downsamples.3.residual.0.gamma"),
            ("encoder.down_blocks.5.resample.1.weight", "encoder.downsamples.5.resample.1.weight"),
            ("encoder.down_blocks.5.time_conv.weight", "encoder.downsamples.5.time_conv.weight"),
            ("encoder.mid_block.resnets.1.conv2.weight", "encoder.middle.2.residual.6.weight"),
            ("decoder.mid_block.attentions.0.to_qkv.weight", "decoder.middle.1.to_qkv.weight"),
            ("decoder.up_blocks.1.resnets.0.conv_shortcut.weight", "decoder.upsamples.4.shortcut.weight"),
            ("decoder.up_blocks.1.upsamplers.0.time_conv.bias", "decoder.upsamples.7.time_conv.bias"),
            ("decoder.up_blocks.3.resnets.2.norm2.gamma", "decoder.upsamples.14.residual.3.gamma"),
            ("decoder.norm_out.gamma", "decoder.head.0.gamma"),
            ("decoder.conv_out.bias", "decoder.head.2.bias"),
            ("quant_conv.weight", "conv1.weight"),
            ("post_quant_conv.bias", "conv2.bias"),
            ("decoder.upsamples.14.residual.6.weight", "decoder.upsamples.14.residual.6.weight"),
            ("conv2.weight", "conv2.weight"),
        ] {
            assert_eq!(vae(theirs, 2).as_deref(), Some(ours));
        }
        for nothing in ["decoder.up_blocks.x.resnets.0.conv1.weight", "unet.conv_in.weight", "loss", "encoder"] {
            assert_eq!(vae(nothing, 2), None, "{nothing}");
        }
    }

    /// Parts of both layouts, and some that are none.
    fn part() -> impl Strategy<Value = String> {
        let known: Vec<String> = DIT
            .iter()
            .flat_map(|(theirs, ours)| [theirs, ours])
            .flat_map(|name| name.split('.'))
            .chain([
                "net",
                "net_ema",
                "weight",
                "encoder",
                "decoder",
                "up_blocks",
                "mid_block",
                "resnets",
                "attentions",
                "0",
                "1",
            ])
            .map(str::to_owned)
            .collect();
        prop_oneof![3 => proptest::sample::select(known), 1 => "[a-z0-9_äé]{0,4}", 1 => Just(u64::MAX.to_string())]
    }

    proptest! {
        #[test]
        fn any_name_is_ours_or_none(parts in proptest::collection::vec(part(), 0..7), blocks in 0_usize..4, plain: bool) {
            let name = parts.join(".");
            for weighting in [Weighting::Plain, Weighting::Average] {
                if let Some(ours) = dit(&name, weighting, plain) {
                    // What is ours stays as it is, so that a file of ours reads like one of theirs; what is no whole name may
                    // be none the second time.
                    let again = dit(&ours, Weighting::Plain, false);
                    prop_assert!(again.is_none() || again == Some(ours));
                }
            }
            let _ = vae(&name, blocks);
        }
    }
}
