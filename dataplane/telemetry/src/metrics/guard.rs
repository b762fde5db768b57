//! Counts that can't be forgotten: what was begun is ended when the guard goes away.

use std::time::Instant;

use prometheus_client::metrics::gauge::Gauge;

use super::{MethodCodeLabels, MethodLabels, RpcMetrics};

/// Code of a call whose guard was dropped unfinished: its client left.
const CANCELLED: &str = "Cancelled";

/// Keeps a gauge one higher for as long as it lives.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Adds one to the gauge until the guard is dropped.
    #[must_use]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A call that is running. Dropping it unfinished counts it as cancelled, so it belongs into the
/// response stream.
#[derive(Debug)]
pub struct RpcCall {
    metrics: RpcMetrics,
    method: &'static str,
    code: &'static str,
    started: Instant,
    _open: [GaugeGuard; 2],
}

impl RpcCall {
    pub(super) fn start(metrics: RpcMetrics, method: &'static str) -> Self {
        let labels = MethodLabels { method };
        metrics.started.get_or_create(&labels).inc();
        let open = [
            GaugeGuard::new(&metrics.open.get_or_create(&labels)),
            GaugeGuard::new(&metrics.running),
        ];
        Self {
            metrics,
            method,
            code: CANCELLED,
            started: Instant::now(),
            _open: open,
        }
    }

    /// Name of the method.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Counts bytes of a message that went out.
    pub fn add_sent(&self, bytes: u64) {
        self.metrics
            .sent
            .get_or_create(&MethodLabels {
                method: self.method,
            })
            .inc_by(bytes);
    }

    /// Ends the call with the name of its gRPC code.
    pub fn finish(mut self, code: &'static str) {
        self.code = code;
    }
}

impl Drop for RpcCall {
    fn drop(&mut self) {
        let labels = MethodCodeLabels {
            method: self.method,
            code: self.code,
        };
        self.metrics.finished.get_or_create(&labels).inc();
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics
            .duration
            .get_or_create(&labels)
            .observe(seconds);
    }
}
