//! Activations and their slopes, written so that the compiler turns loops over them into vector code.

/// What follows a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x Phi(x)` with the exact normal distribution function, PyTorch's default form.
    Gelu,
    /// The same with the distribution function approximated by a hyperbolic tangent, PyTorch's `approximate="tanh"`.
    GeluTanh,
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
}

/// `e^x` for `x <= 0`, to two units in the last place, and 0 below `e^-87`.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln(2)/2; adding 1.5 * 2^23 rounds to the integer n and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let tiny = x < -87.0;
    let x = if tiny { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // Taylor's series to r^7: the remainder on this interval is below the rounding.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = r.mul_add(sum, coefficient);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if tiny { 0.0 } else { sum * power }
}

/// The normal distribution function and density at `x`, with an absolute error below 3e-7.
///
/// Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.2.17 in its form for the error function (7.1.26): one
/// exponential serves both.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let e = exp_of_negative(-0.5 * x * x);
    let t = 1.0 / x.abs().mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut sum = 0.530_702_7;
    for coefficient in [-0.726_576_03, 0.710_706_9, -0.142_248_37, 0.127_414_8] {
        sum = t.mul_add(sum, coefficient);
    }
    let tail = t * sum * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, e * 0.398_942_3)
}

/// The activation and its slope.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> (f32, f32) {
    let (distribution, density) = normal(x);
    (x * distribution, x.mul_add(density, distribution))
}

/// `1 / (1 + e^-x)` and one minus it, both to a few units in the last place.
#[inline(always)]
fn sigmoid(x: f32) -> (f32, f32) {
    let e = exp_of_negative(-x.abs());
    let (large, small) = (1.0 / (1.0 + e), e / (1.0 + e));
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// The activation and its slope.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> (f32, f32) {
    // (1 + tanh u) / 2 is the sigmoid of 2u.
    const SCALE: f32 = 1.595_769_2;
    const CUBE: f32 = 0.044_715 * SCALE;
    let (share, rest) = sigmoid(x * (x * x).mul_add(CUBE, SCALE));
    let slope = (x * x).mul_add(3.0 * CUBE, SCALE);
    (x * share, (x * share * rest).mul_add(slope, share))
}

/// The activation and its slope.
#[inline(always)]
pub(crate) fn silu(x: f32) -> (f32, f32) {
    let (share, rest) = sigmoid(x);
    (x * share, (x * share).mul_add(rest, share))
}

/// No activation, and its slope.
#[inline(always)]
pub(crate) fn identity(x: f32) -> (f32, f32) {
    (x, 1.0)
}

/// The activation and its slope (0 at 0, as PyTorch).
#[inline(always)]
pub(crate) fn relu(x: f32) -> (f32, f32) {
    if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::{exp_of_negative, gelu, gelu_tanh, silu};

    /// The normal distribution function by its series (small x) or continued fraction (large x), in f64.
    fn reference(x: f64) -> f64 {
        let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for k in 1..200 {
                term *= x * x / f64::from(2 * k + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let fraction = (1..200).rev().fold(0.0, |below, k| f64::from(k) / (x.abs() + below));
        let tail = density / (x.abs() + fraction);
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn gelu_and_its_slope_agree_with_f64_everywhere() {
        assert!((reference(1.0) - 0.841_344_746_068_542_9).abs() < 1e-14);
        assert!((reference(-4.0) - 3.167_124_183_311_992e-5).abs() < 1e-16);
        for step in -120_000..120_000 {
            let x = step as f32 * 1e-4 + 3e-5;
            let (value, slope) = gelu(x);
            let exact = f64::from(x);
            let distribution = reference(exact);
            let density = (-0.5 * exact * exact).exp() / std::f64::consts::TAU.sqrt();
            let limit = 1e-6 * (1.0 + exact.abs());
            assert!((f64::from(value) - exact * distribution).abs() < limit, "gelu({x}) = {value}");
            assert!((f64::from(slope) - distribution - exact * density).abs() < 1e-6, "slope at {x} = {slope}");
        }
        let ends = [f32::MAX, f32::MIN, 1e4, -1e4, 0.0].map(gelu);
        assert_eq!(ends.map(|(value, _)| value), [f32::MAX, 0.0, 1e4, 0.0, 0.0]);
        assert_eq!(ends.map(|(_, slope)| slope), [1.0, 0.0, 1.0, 0.0, 0.5]);
        assert!(gelu(f32::NAN).0.is_nan());
    }

    #[test]
    fn the_exponential_is_that_of_f64_to_two_units_in_the_last_place() {
        for step in 0..1_800_000 {
            let x = step as f32 * -5e-5;
            let (got, want) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            let unit = want * f64::from(f32::EPSILON);
            let limit = if x < -87.0 { 1.7e-38 } else { 2.0 * unit };
            assert!((got - want).abs() <= limit, "e^{x} = {got:e} instead of {want:e}");
        }
        assert_eq!([0.0, -0.0, f32::NEG_INFINITY, f32::MIN].map(exp_of_negative), [1.0, 1.0, 0.0, 0.0]);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    /// Far from 0 the cube of [`gelu_tanh`] overflows, and the slope has a product of nothing and infinity.
    const FAR: f32 = 1e4;

    #[test]
    fn those_of_the_sigmoid_agree_with_f64_everywhere() {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let scale = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
        for step in -120_000..120_000 {
            let x = step as f32 * 1e-4 + 3e-5;
            let exact = f64::from(x);
            let share = logistic(exact);
            let inner = logistic(scale * (exact + 0.044_715 * exact.powi(3)));
            let slope = inner + exact * inner * (1.0 - inner) * scale * (1.0 + 3.0 * 0.044_715 * exact * exact);
            let checks = [
                ("silu", silu(x), exact * share, share + exact * share * (1.0 - share)),
                ("gelu_tanh", gelu_tanh(x), exact * inner, slope),
            ];
            for (name, (value, slope), want, steepness) in checks {
                assert!((f64::from(value) - want).abs() < 1e-6 * (1.0 + exact.abs()), "{name}({x}) = {value}");
                assert!((f64::from(slope) - steepness).abs() < 2e-6, "slope of {name} at {x} = {slope}");
            }
        }
        for function in [silu, gelu_tanh] {
            assert_eq!([FAR, -FAR, 0.0].map(&function), [(FAR, 1.0), (-0.0, 0.0), (0.0, 0.5)]);
            assert!(function(f32::NAN).0.is_nan());
        }
    }
}
