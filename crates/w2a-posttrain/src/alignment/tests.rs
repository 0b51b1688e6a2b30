use burn::tensor::{Device, Tensor};
use rand::RngExt;
use w2a_nn::{normal, tensor, values};

use super::{Aligned, PathEnd, TimeWarp, misfit};

const WIDE: usize = 99;

fn warp(gamma: f32, band: usize, end: PathEnd) -> TimeWarp {
    TimeWarp { gamma, band, end }
}

fn costs(chunks: usize, name: &str) -> Vec<f32> {
    let mut rng = w2a_data::stream(3, name);
    (0..chunks * chunks).map(|_| rng.random_range(0.0..2.0)).collect()
}

/// The cheapest path by trying all of them.
fn brute_force(costs: &[f32], chunks: usize, band: usize, end: PathEnd, at: (usize, usize)) -> f64 {
    let (row, column) = at;
    if row >= chunks || column >= chunks || row.abs_diff(column) > band {
        return f64::INFINITY;
    }
    let here = f64::from(costs[row * chunks + column]);
    let ends = row + 1 == chunks && (end == PathEnd::Open || column + 1 == chunks);
    let onwards = [(row + 1, column + 1), (row + 1, column), (row, column + 1)]
        .map(|next| brute_force(costs, chunks, band, end, next));
    here + onwards.into_iter().fold(if ends { 0.0 } else { f64::INFINITY }, f64::min)
}

#[test]
fn the_hard_path_is_the_cheapest_of_all_and_a_path() {
    for (case, end) in [PathEnd::Closed, PathEnd::Open].into_iter().cycle().take(12).enumerate() {
        let (chunks, band) = (1 + case % 6, case % 4);
        let costs = costs(chunks, &format!("hard/{case}"));
        let Aligned { cost, weights } = warp(0.0, band, end).align(&costs).unwrap();
        assert!((cost - brute_force(&costs, chunks, band, end, (0, 0))).abs() < 1e-6, "{case}");
        let path: Vec<(usize, usize)> = (0..chunks * chunks)
            .filter(|&index| weights[index] == 1.0)
            .map(|index| (index / chunks, index % chunks))
            .collect();
        assert_eq!(path.len() as f64, weights.iter().sum::<f64>());
        assert_eq!((path[0], path[path.len() - 1].0), ((0, 0), chunks - 1));
        for pair in path.windows(2) {
            let step = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
            assert!([(1, 1), (1, 0), (0, 1)].contains(&step), "{path:?}");
        }
        assert!(path.iter().all(|(row, column)| row.abs_diff(*column) <= band));
        assert!(end == PathEnd::Open || path[path.len() - 1] == (chunks - 1, chunks - 1));
    }
}

#[test]
fn the_soft_gradient_is_that_of_finite_differences() {
    for (end, band) in [(PathEnd::Closed, WIDE), (PathEnd::Closed, 2), (PathEnd::Open, WIDE), (PathEnd::Open, 1)] {
        let warp = warp(0.3, band, end);
        // Multiples of the step, a power of two: what is added is what is taken away again, to the bit.
        let step = 1.0 / 1024.0;
        let costs: Vec<f32> = costs(6, "soft").iter().map(|cost| (cost / step).round() * step).collect();
        let found = warp.align(&costs).unwrap();
        for index in 0..costs.len() {
            let at = |by: f32| {
                let mut moved = costs.clone();
                moved[index] += by;
                warp.align(&moved).unwrap().cost
            };
            let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
            assert!((slope - found.weights[index]).abs() < 1e-5, "{end:?} {band} {index}: {slope}");
        }
    }
}

#[test]
fn soft_goes_to_hard_as_gamma_goes_to_zero_and_lies_below_it() {
    for end in [PathEnd::Closed, PathEnd::Open] {
        let costs = costs(7, "limit");
        let hard = warp(0.0, 3, end).align(&costs).unwrap();
        let mut before = f64::INFINITY;
        for gamma in [1.0, 0.1, 0.01, 1e-3, 1e-4] {
            let soft = warp(gamma, 3, end).align(&costs).unwrap();
            let gap = hard.cost - soft.cost;
            assert!(gap >= -1e-12 && gap <= before, "{gamma}: {gap} after {before}");
            before = gap;
        }
        assert!(before < 1e-4);
        let soft = warp(1e-4, 3, end).align(&costs).unwrap();
        for (soft, hard) in soft.weights.iter().zip(&hard.weights) {
            assert!((soft - hard).abs() < 1e-6);
        }
    }
}

#[test]
fn a_band_of_none_is_the_same_step_and_so_is_equal_content() {
    let costs = costs(5, "band");
    let diagonal: Vec<f64> = (0..25).map(|index| f64::from(u8::from(index % 6 == 0))).collect();
    for gamma in [0.0, 0.2] {
        assert_eq!(warp(gamma, 0, PathEnd::Closed).align(&costs).unwrap().weights, diagonal);
    }
    // Where everything costs the same, the shortest path is the cheapest: the diagonal.
    assert_eq!(warp(0.0, WIDE, PathEnd::Closed).align(&[1.0; 25]).unwrap().weights, diagonal);
}

#[test]
fn costs_that_cannot_be_aligned_are_refused() {
    let warp = warp(0.1, 2, PathEnd::Closed);
    for costs in [&[][..], &[1.0, 2.0], &[f32::NAN], &[f32::INFINITY]] {
        let error = warp.align(costs).unwrap_err().to_string();
        assert!(error.starts_with("costs of an alignment in time: expected finite"), "{error}");
    }
}

fn random(shape: [usize; 3], name: &str, device: &Device) -> Tensor<3> {
    tensor(normal(&mut w2a_data::stream(1, name), shape.iter().product()), shape, device)
}

#[test]
fn the_gradient_that_reaches_the_embeddings_is_that_of_finite_differences() {
    let device = Device::flex().autodiff();
    let z_v = random([2, 4, 3], "z_v", &device);
    for end in [PathEnd::Closed, PathEnd::Open] {
        let warp = warp(0.2, 2, end);
        let z = random([2, 4, 3], "z", &device).require_grad();
        let gradients = misfit(&warp, z.clone(), z_v.clone()).unwrap().loss.backward();
        let exact = values(z.grad(&gradients).unwrap()).unwrap();
        let at = values(z.clone().detach()).unwrap();
        for index in 0..at.len() {
            let loss = |by: f32| {
                let mut moved = at.clone();
                moved[index] += by;
                let found = misfit(&warp, tensor(moved, [2, 4, 3], &device), z_v.clone()).unwrap();
                values(found.loss).unwrap()[0]
            };
            let slope = (loss(1e-2) - loss(-1e-2)) / 2e-2;
            assert!((slope - exact[index]).abs() < 2e-3, "{end:?} {index}: {slope} {}", exact[index]);
        }
    }
}

#[test]
fn a_delayed_execution_fits_along_the_path_and_not_step_by_step() {
    let device = Device::flex();
    let target = random([1, 8, 16], "target", &device);
    // Every fourth chunk takes two: a quarter slower, and the last chunks are never reached.
    let order = [0, 1, 2, 3, 3, 4, 5, 6];
    let slow = Tensor::cat(order.map(|chunk| target.clone().narrow(1, chunk, 1)).to_vec(), 1);
    let number = |tensor: Tensor<1>| values(tensor).unwrap()[0];
    let part = |found: &super::Misfit, name: &str| {
        number(found.parts.iter().find(|(part, _)| *part == name).map(|(_, value)| value.clone()).unwrap())
    };
    let open = misfit(&warp(0.0, 2, PathEnd::Open), slow.clone(), target.clone()).unwrap();
    assert!(number(open.loss.clone()).abs() < 1e-6 && (part(&open, "aligned_cosine") - 1.0).abs() < 1e-6);
    assert!((part(&open, "lag") - 0.5).abs() < 1e-6, "{}", part(&open, "lag"));
    let closed = misfit(&warp(0.0, 2, PathEnd::Closed), slow.clone(), target.clone()).unwrap();
    assert!(number(closed.loss) > 0.05);
    let same_step = misfit(&warp(0.0, 0, PathEnd::Closed), slow, target).unwrap();
    assert!(number(same_step.loss) > 0.3);
}

/// An update at the paper's sizes takes tens of milliseconds (`stage1_steps`, case `residual`); the alignment of its batch
/// may add a tenth of that at most. The bound is loose, for the machine of a test may be busy.
#[test]
fn aligning_a_batch_takes_a_few_milliseconds() {
    let device = Device::flex().autodiff();
    let (z, z_v) = (random([16, 16, 32], "fast/z", &device), random([16, 16, 32], "fast/z_v", &device));
    let warp = warp(0.1, 4, PathEnd::Closed);
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        misfit(&warp, z.clone().require_grad(), z_v.clone()).unwrap().loss.backward();
        best = best.min(begun.elapsed().as_secs_f64());
    }
    eprintln!("aligning 16 rollouts of 16 chunks, forwards and backwards: {:.3} ms", 1e3 * best);
    assert!(best < 0.01, "{best} s");
}
