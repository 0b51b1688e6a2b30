//! What a server counts, and its page in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the latency classes, in seconds.
const LATENCY: [f64; 12] = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0, 4.0];
/// Upper ends of the classes of batches.
const BATCH: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// What clients can ask for; whatever else they say is one class, so that nobody can fill the page.
const ENDPOINTS: [&str; 6] = ["get_action", "ping", "reset", "get_modality_config", "kill", "other"];

#[derive(Default)]
struct Histogram {
    /// One count a class, and one for what is above all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, ends: &[f64], value: f64) {
        let class = ends.iter().position(|end| value <= *end).unwrap_or(ends.len());
        self.counts.resize(ends.len() + 1, 0);
        if let Some(count) = self.counts.get_mut(class) {
            *count += 1;
        }
        self.sum += value;
    }

    fn write(&self, name: &str, help: &str, ends: &[f64], out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        let ends = ends.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (place, end) in ends.enumerate() {
            total += self.counts.get(place).copied().unwrap_or(0);
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {total}", self.sum);
    }
}

/// The counters of a server.
#[derive(Default)]
pub struct Metrics {
    requests: [[AtomicU64; 2]; ENDPOINTS.len()],
    connections: AtomicU64,
    open: AtomicU64,
    broken: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    latency: Mutex<Histogram>,
    batch: Mutex<Histogram>,
}

impl Metrics {
    /// A request was answered; `sizes` are its bytes in and out.
    pub(crate) fn request(&self, endpoint: &str, ok: bool, sizes: (usize, usize), took: Duration) {
        let place = ENDPOINTS.iter().position(|known| *known == endpoint).unwrap_or(ENDPOINTS.len() - 1);
        if let Some([good, bad]) = self.requests.get(place) {
            let count = if ok { good } else { bad };
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.received.fetch_add(sizes.0 as u64, Ordering::Relaxed);
        self.sent.fetch_add(sizes.1 as u64, Ordering::Relaxed);
        // A panic elsewhere does not make the counts worse than they are.
        self.latency.lock().unwrap_or_else(|held| held.into_inner()).add(&LATENCY, took.as_secs_f64());
    }

    pub(crate) fn batch(&self, rows: usize) {
        self.batch.lock().unwrap_or_else(|held| held.into_inner()).add(&BATCH, rows as f64);
    }

    pub(crate) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, broken: bool) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.broken.fetch_add(u64::from(broken), Ordering::Relaxed);
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut out = String::from(
            "# HELP w2a_requests_total Requests answered, by endpoint and result.\n# TYPE w2a_requests_total counter\n",
        );
        for (endpoint, counts) in ENDPOINTS.iter().zip(&self.requests) {
            for (result, count) in ["ok", "error"].iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                let _ = writeln!(out, "w2a_requests_total{{endpoint=\"{endpoint}\",result=\"{result}\"}} {count}");
            }
        }
        let single = [
            ("w2a_connections_total", "counter", "Connections accepted.", &self.connections),
            ("w2a_connections_open", "gauge", "Connections open now.", &self.open),
            ("w2a_connections_broken_total", "counter", "Connections that ended in an error.", &self.broken),
            ("w2a_received_bytes_total", "counter", "Bytes of requests.", &self.received),
            ("w2a_sent_bytes_total", "counter", "Bytes of answers.", &self.sent),
        ];
        for (name, kind, help, value) in single {
            let value = value.load(Ordering::Relaxed);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        let latency = self.latency.lock().unwrap_or_else(|held| held.into_inner());
        latency.write("w2a_request_seconds", "From a whole request to its answer.", &LATENCY, &mut out);
        let batch = self.batch.lock().unwrap_or_else(|held| held.into_inner());
        batch.write("w2a_batch_rows", "Observations that went through the policy at once.", &BATCH, &mut out);
        out
    }
}
