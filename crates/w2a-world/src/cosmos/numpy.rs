//! The random numbers of NumPy's `RandomState`, which the authors' sampler starts from.
//!
//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998) seeded by one word, and the polar method in the order in
//! which `standard_normal` has drawn since NumPy 1.0. A seed thus names the same noise here and in the release.

/// Words of the state.
const WORDS: usize = 624;
/// Distance of the words that are combined.
const SHIFT: usize = 397;

/// `numpy.random.RandomState(seed)`.
#[derive(Clone, Debug)]
pub struct RandomState {
    words: [u32; WORDS],
    next: usize,
    spare: Option<f64>,
}

impl RandomState {
    /// The stream of a seed.
    pub fn new(seed: u32) -> Self {
        let mut words = [0; WORDS];
        let mut word = seed;
        for (index, place) in words.iter_mut().enumerate() {
            *place = word;
            word = 1_812_433_253_u32.wrapping_mul(word ^ word >> 30).wrapping_add(index as u32 + 1);
        }
        Self { words, next: WORDS, spare: None }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for index in 0..WORDS {
                let joined = self.words[index] & 0x8000_0000 | self.words[(index + 1) % WORDS] & 0x7fff_ffff;
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[index] = self.words[(index + SHIFT) % WORDS] ^ joined >> 1 ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// `random_sample()`: 53 random bits in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `standard_normal()`.
    pub fn standard_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square < 1.0 && square != 0.0 {
                let scale = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(scale * x);
                return scale * y;
            }
        }
    }

    /// `standard_normal(count).astype(float32)`.
    pub fn standard_normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.standard_normal() as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::RandomState;

    const NORMALS_0: [f64; 5] =
        [1.764052345967664, 0.4001572083672233, 0.9787379841057392, 2.240893199201458, 1.8675579901499675];
    const UNIFORMS_0: [f64; 3] = [0.5488135039273248, 0.7151893663724195, 0.6027633760716439];
    const NORMALS_MAX: [f64; 5] =
        [0.6484086742306527, 0.6693235306338161, -1.0805437227474493, 0.2845010447986309, 0.11388773652167104];
    const UNIFORMS_MAX: [f64; 3] = [0.0976320289940138, 0.9123828453026218, 0.78903530185164];
    const LAST_OF_2000: f32 = -0.210_478_93;

    #[test]
    fn the_numbers_are_numpys() {
        // numpy 2.2.6: RandomState(seed).standard_normal(5), .random_sample(3)
        for (seed, normals, uniforms) in [(0, NORMALS_0, UNIFORMS_0), (4_294_967_295, NORMALS_MAX, UNIFORMS_MAX)] {
            let mut state = RandomState::new(seed);
            for want in normals {
                let got = state.standard_normal();
                assert!((got - want).abs() < 1e-15, "{seed}: {got} instead of {want}");
            }
            let mut state = RandomState::new(seed);
            assert_eq!([(); 3].map(|()| state.uniform()), uniforms, "{seed}");
        }
        // Beyond one round of the state.
        assert_eq!(RandomState::new(7).standard_normals(2000).last(), Some(&LAST_OF_2000));
    }
}
