//! Attention against plain sums in f64, and against burn's.

use burn::tensor::module::{attention as burns, attention_fallback};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::attention;
use crate::{normal, tensor, values};

fn random(name: &str, shape: [usize; 4]) -> Tensor<4> {
    tensor(normal(&mut w2a_data::stream(0, name), shape.iter().product()), shape, &Device::flex())
}

fn host(tensor: Tensor<4>) -> Vec<f32> {
    values(tensor).unwrap()
}

/// In f64, from plain values.
fn reference(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    bias: Option<&Tensor<4>>,
    scale: Option<f64>,
) -> Vec<f64> {
    let ([batch, heads, queries, width], [_, shared, keys, _], [.., out]) = (query.dims(), key.dims(), value.dims());
    let (q, k, v) = (host(query.clone()), host(key.clone()), host(value.clone()));
    let bias = bias.map(|bias| host(bias.clone().expand([batch, heads, queries, keys])));
    let scale = scale.unwrap_or(1.0 / (width as f64).sqrt());
    let mut all = Vec::new();
    for (row, query) in q.chunks_exact(width).enumerate() {
        let head = row / queries;
        let place = (head / heads * shared + head % heads / (heads / shared)) * keys;
        let score = |key: usize| {
            let products = query.iter().zip(&k[(place + key) * width..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum::<f64>() * scale + bias.as_ref().map_or(0.0, |bias| f64::from(bias[row * keys + key]))
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = shares.iter().sum();
        let mixed = |column: usize| {
            let of = |key: usize| shares[key] * f64::from(v[(place + key) * out + column]);
            if total > 0.0 { (0..keys).map(of).sum::<f64>() / total } else { 0.0 }
        };
        all.extend((0..out).map(mixed));
    }
    all
}

/// The largest difference to f64.
fn error(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Option<Tensor<4>>, scale: Option<f64>) -> f64 {
    let want = reference(&query, &key, &value, bias.as_ref(), scale);
    let got = super::fast(&query, &key, &value, bias.as_ref(), scale).expect("it is on the CPU");
    assert_eq!(got.dims(), [query.dims()[0], query.dims()[1], query.dims()[2], value.dims()[3]]);
    let got = host(got);
    assert_eq!(got.len(), want.len());
    got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sizes_agree_with_f64(
        batch in 1_usize..3, shared in 1_usize..3, per_shared in 1_usize..4, queries in 1_usize..120,
        keys in 1_usize..700, width in 1_usize..40, out in 1_usize..40, ones in 0_usize..8, has_bias: bool,
    ) {
        let heads = shared * per_shared;
        let one = |bit: usize, size: usize| if ones >> bit & 1 == 1 { 1 } else { size };
        let bias = has_bias.then(|| random("b", [one(0, batch), one(1, heads), one(2, queries), keys]));
        let (query, key) = (random("q", [batch, heads, queries, width]), random("k", [batch, shared, keys, width]));
        let error = error(query, key, random("v", [batch, shared, keys, out]), bias, None);
        prop_assert!(error < 3e-6, "{error:e}");
    }
}

#[test]
fn heads_are_read_where_they_lie() {
    let by_token = |name: &str, shape: [usize; 4]| random(name, shape).swap_dims(1, 2);
    // Of one tensor with queries, keys and values side by side, too.
    let all = random("all", [2, 70, 3 * 4, 20]).swap_dims(1, 2);
    let part = |index: usize| all.clone().narrow(1, 4 * index, 4);
    assert!(error(part(0), part(1), part(2), None, None) < 2e-6);
    // What is not side by side is copied, and a repeated key counts as often as it is there.
    let turned = random("q", [2, 4, 20, 50]).swap_dims(2, 3);
    assert!(error(turned, by_token("k", [2, 9, 2, 20]), by_token("v", [2, 9, 2, 16]), None, Some(0.3)) < 2e-6);
    let repeated = random("one", [2, 2, 1, 20]).expand([2, 2, 9, 20]);
    assert!(error(part(0), repeated.clone(), repeated, None, None) < 2e-6);
}

#[test]
fn scores_of_any_size_lose_nothing() {
    let (query, key, value) =
        (random("q", [1, 2, 60, 16]), random("k", [1, 2, 1300, 16]), random("v", [1, 2, 1300, 16]));
    // Nearly one key a query, in tiles of which later ones often have the largest score.
    assert!(error(query.clone() * 5.0, key.clone() * 5.0, value.clone(), None, None) < 2e-4);
    assert!(error(query * 1e-3, key, value, None, Some(1.0)) < 2e-6);
}

#[test]
fn masked_keys_count_nothing_and_queries_without_keys_get_what_burn_gives() {
    let (query, key, value) = (random("q", [2, 2, 50, 8]), random("k", [2, 2, 600, 8]), random("v", [2, 2, 600, 8]));
    for masked in [f32::NEG_INFINITY, -1e30] {
        // Query 7 has no key, query 8 none of the first tile, the others every third.
        let mask = (0..50 * 600).map(|place| match (place / 600, place % 600) {
            (7, _) => masked,
            (8, key) if key < 400 => masked,
            (query, key) if query != 8 && key % 3 > 0 => masked,
            _ => 0.0,
        });
        let bias = tensor(mask.collect(), [1, 1, 50, 600], &Device::flex());
        let ours = host(attention(query.clone(), key.clone(), value.clone(), Some(bias.clone()), None));
        let options = AttentionModuleOptions::default();
        let burns = host(burns(query.clone(), key.clone(), value.clone(), None, Some(bias), options));
        for (place, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
            assert!((ours - burns).abs() < 2e-6, "{masked}, {place}: {ours}, {burns}");
        }
        let empty = &ours[7 * 8..8 * 8];
        assert_eq!(empty.iter().all(|value| *value == 0.0), masked.is_infinite(), "{empty:?}");
    }
}

#[test]
fn a_nan_stays_in_its_query() {
    let mut data = host(random("q", [1, 1, 3, 8]));
    data[8] = f32::NAN;
    let query = tensor(data, [1, 1, 3, 8], &Device::flex());
    let got = host(attention(query, random("k", [1, 1, 40, 8]), random("v", [1, 1, 40, 8]), None, None));
    assert!(got[..8].iter().chain(&got[16..]).all(|value| value.is_finite()), "{got:?}");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (query, key) = (random("q", [1, 1, 900, 32]), random("k", [1, 1, 1200, 32]));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| host(attention(query.clone(), key.clone(), key.clone(), None, None)))
    };
    assert_eq!(run(1), run(5));
}

/// Values and gradients of queries, keys and values, of a sum of products with other random values.
fn differentiated(
    by: impl Fn([Tensor<4>; 3], Option<Tensor<4>>) -> Tensor<4>,
    [batch, heads, shared, queries, keys, width, out]: [usize; 7],
    bias: Option<Tensor<4>>,
) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let tracked = |name: &str, shape| Tensor::<4>::from_data(random(name, shape).into_data(), &device);
    let inputs = [
        tracked("q", [batch, heads, queries, width]).require_grad(),
        tracked("k", [batch, shared, keys, width]).require_grad(),
        tracked("v", [batch, shared, keys, out]).require_grad(),
    ];
    let bias = bias.map(|bias| Tensor::from_data(bias.into_data(), &device));
    let result = by(inputs.clone(), bias);
    let factors = tracked("f", [batch, heads, queries, out]);
    let gradients = (result.clone() * factors).sum().backward();
    let mut all = vec![host(result)];
    all.extend(inputs.iter().map(|input| host(input.grad(&gradients).unwrap())));
    all
}

#[test]
fn gradients_are_burns_and_values_those_without_gradients() {
    for sizes in [[1, 1, 1, 3, 2, 4, 5], [2, 4, 2, 60, 70, 24, 24], [1, 6, 1, 49, 530, 16, 33]] {
        let [batch, heads, shared, queries, keys, width, out] = sizes;
        let mask = (0..batch * queries * keys).map(|place| match (place / keys % queries, place % keys) {
            (_, key) if key % 5 == 3 => -1e30,
            (query, key) => (query as f32 - key as f32) * 0.01,
        });
        let mask = tensor(mask.collect(), [batch, 1, queries, keys], &Device::flex());
        for bias in [None, Some(mask)] {
            let ours = |[query, key, value]: [Tensor<4>; 3], bias: Option<Tensor<4>>| {
                super::fast(&query, &key, &value, bias.as_ref(), Some(0.4)).expect("it is on the CPU")
            };
            let steps = |[query, key, value]: [Tensor<4>; 3], bias: Option<Tensor<4>>| {
                let repeated = |x: Tensor<4>| {
                    let [_, _, tokens, width] = x.dims();
                    let each = x.unsqueeze_dim::<5>(2).expand([batch, shared, heads / shared, tokens, width]);
                    each.reshape([batch, heads, tokens, width])
                };
                let options = AttentionModuleOptions { scale: Some(0.4), ..AttentionModuleOptions::default() };
                attention_fallback(query, repeated(key), repeated(value), None, bias, options)
            };
            let ours = differentiated(ours, sizes, bias.clone());
            let theirs = differentiated(steps, sizes, bias.clone());
            for (part, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(ours.len(), theirs.len());
                let largest = theirs.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
                let far = ours.iter().zip(theirs).find(|(a, b)| a.is_nan() || (*a - *b).abs() > 5e-6 * largest);
                assert!(far.is_none(), "{sizes:?}, part {part}: {far:?}");
            }
            let (query, key) = (random("q", [batch, heads, queries, width]), random("k", [batch, shared, keys, width]));
            let plain = attention(query, key, random("v", [batch, shared, keys, out]), bias, Some(0.4));
            assert_eq!(ours[0], host(plain), "the same bits with and without gradients");
        }
    }
}

#[test]
fn a_query_without_keys_has_no_gradient() {
    let mask = (0..5 * 20).map(|place| if place / 20 == 2 { f32::NEG_INFINITY } else { 0.0 });
    let mask = tensor(mask.collect(), [1, 1, 5, 20], &Device::flex());
    let by = |[query, key, value]: [Tensor<4>; 3], bias: Option<Tensor<4>>| attention(query, key, value, bias, None);
    let all = differentiated(by, [1, 1, 1, 5, 20, 8, 8], Some(mask));
    assert!(all.iter().flatten().all(|value| value.is_finite()));
    assert!(all[1][16..24].iter().all(|value| *value == 0.0) && all[1][8..16].iter().any(|value| *value != 0.0));
}

#[test]
fn a_bias_that_asks_for_gradients_gets_them() {
    let device = Device::flex().autodiff();
    let tracked = |name: &str| Tensor::<4>::from_data(random(name, [1, 1, 3, 3]).into_data(), &device);
    let bias = tracked("b").require_grad();
    let mixed = attention(tracked("q"), tracked("k"), tracked("v"), Some(bias.clone()), None);
    let gradients = (mixed * tracked("f")).sum().backward();
    assert!(host(bias.grad(&gradients).unwrap()).iter().any(|value| *value != 0.0));
}
