//! Label-free numbers that tell whether the shared space works.

/// What a set of paired trajectories of embeddings looks like.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Diagnostics {
    /// Mean cosine of each chunk with its partner, `[T]`.
    pub cosine_per_chunk: Vec<f32>,
    /// Mean of the above.
    pub cosine: f32,
    /// Share of trajectories whose partner is the most similar of all.
    pub retrieval: f32,
    /// Length of the batch mean of the unit embeddings, averaged over chunks: 1 if all trajectories share one direction.
    pub shared: f32,
    /// Mean length of the embeddings.
    pub norm: f32,
}

/// Compares `z` with its targets `z_v`: both `[n, T, D]` row-major.
///
/// Retrieval compares a trajectory with at most 256 partners, the first ones. Empty input gives zeros.
pub fn diagnose(z: &[f32], z_v: &[f32], chunks: usize, dim: usize) -> Diagnostics {
    let stride = chunks * dim;
    if stride == 0 || z.len() != z_v.len() || z.is_empty() {
        return Diagnostics::default();
    }
    let n = z.len() / stride;
    let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
    let unit = |data: &[f32]| -> Vec<f32> {
        data.chunks_exact(dim).flat_map(|row| row.iter().map(move |value| value / length(row).max(1e-12))).collect()
    };
    let (a, b) = (unit(z), unit(z_v));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let row = |i: usize, t: usize| i * stride + t * dim..i * stride + (t + 1) * dim;
    let cosine_per_chunk: Vec<f32> =
        (0..chunks).map(|t| (0..n).map(|i| dot(&a[row(i, t)], &b[row(i, t)])).sum::<f32>() / n as f32).collect();
    let shared = (0..chunks)
        .map(|t| {
            let mean: Vec<f32> =
                (0..dim).map(|d| (0..n).map(|i| a[i * stride + t * dim + d]).sum::<f32>() / n as f32).collect();
            length(&mean)
        })
        .sum::<f32>()
        / chunks as f32;
    let m = n.min(256);
    let hits = (0..m)
        .filter(|&i| {
            let own = dot(&a[i * stride..(i + 1) * stride], &b[i * stride..(i + 1) * stride]);
            (0..m).all(|j| j == i || dot(&a[i * stride..(i + 1) * stride], &b[j * stride..(j + 1) * stride]) < own)
        })
        .count();
    Diagnostics {
        cosine: cosine_per_chunk.iter().sum::<f32>() / chunks as f32,
        cosine_per_chunk,
        retrieval: hits as f32 / m as f32,
        shared,
        norm: z.chunks_exact(dim).map(length).sum::<f32>() / (n * chunks) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::diagnose;

    #[test]
    fn equal_sets_align_and_opposite_sets_do_not() {
        let z = [1., 0., 0., 2., 0., 1., 3., 0.];
        let same = diagnose(&z, &z, 2, 2);
        assert_eq!((same.cosine, same.retrieval), (1.0, 1.0));
        assert!((same.shared - 0.5_f32.sqrt()).abs() < 1e-6 && (same.norm - 1.75).abs() < 1e-6);
        let opposite: Vec<f32> = z.iter().map(|value| -value).collect();
        assert_eq!(diagnose(&z, &opposite, 2, 2).cosine, -1.0);
        assert_eq!(diagnose(&[], &[], 2, 2).retrieval, 0.0);
    }
}
