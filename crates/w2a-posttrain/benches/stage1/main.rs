//! `cargo bench --bench stage1 [-- CASE]`: our side of the comparison with PyTorch, by criterion.

mod cases;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for name in cases::CASES {
        if let Some(mut step) = cases::case(name) {
            criterion.bench_function(name, |bencher| bencher.iter(|| step().expect("the step runs")));
        }
    }
    criterion.final_summary();
}
