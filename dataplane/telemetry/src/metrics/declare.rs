//! How a metric is declared: registered under its full name and noted for the reference page, in
//! one step.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::memory::{memory_limit_bytes, rss_bytes};

/// A set of labels. The values are `'static`: no text of a user can become a series.
pub trait Labels:
    EncodeLabelSet + Clone + std::hash::Hash + Eq + fmt::Debug + Send + Sync + 'static
{
    /// The label names, in the order they are written.
    const NAMES: &'static [&'static str];
}

/// A histogram per set of labels.
pub type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// What the reference page says about a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Full name, as Prometheus sees it.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// What it counts, without a full stop.
    pub help: &'static str,
}

/// Registers metrics and keeps the list of them.
#[derive(Debug, Default)]
pub(super) struct Declarer {
    pub(super) registry: Registry,
    pub(super) declarations: Vec<Declaration>,
}

impl Declarer {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        let metric = Counter::default();
        self.note(name, "counter", &[], help);
        self.registry
            .register(counter_name(name), help, metric.clone());
        metric
    }

    pub(super) fn counters<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Family<L, Counter> {
        let metric = Family::<L, Counter>::default();
        self.note(name, "counter", L::NAMES, help);
        self.registry
            .register(counter_name(name), help, metric.clone());
        metric
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        let metric = Gauge::default();
        self.note(name, "gauge", &[], help);
        self.registry.register(name, help, metric.clone());
        metric
    }

    pub(super) fn gauges<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Family<L, Gauge> {
        let metric = Family::<L, Gauge>::default();
        self.note(name, "gauge", L::NAMES, help);
        self.registry.register(name, help, metric.clone());
        metric
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        make: fn() -> Histogram,
    ) -> Histogram {
        let metric = make();
        self.note(name, "histogram", &[], help);
        self.registry.register(name, help, metric.clone());
        metric
    }

    pub(super) fn histograms<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        make: fn() -> Histogram,
    ) -> HistogramFamily<L> {
        let metric = HistogramFamily::<L>::new_with_constructor(make);
        self.note(name, "histogram", L::NAMES, help);
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// Two gauges that are read when somebody asks for them.
    pub(super) fn memory<L: Labels + From<&'static str>>(
        &mut self,
        used: (&'static str, &'static str),
        limit: (&'static str, &'static str),
    ) -> MemoryMetrics {
        self.note(used.0, "gauge", L::NAMES, used.1);
        self.note(limit.0, "gauge", &[], limit.1);
        let memory = MemoryMetrics::default();
        let labels: fn(&'static str) -> L = L::from;
        let collector = MemoryCollector {
            memory: memory.clone(),
            used,
            limit,
            labels,
        };
        self.registry.register_collector(Box::new(collector));
        memory
    }

    fn note(
        &mut self,
        name: &'static str,
        kind: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) {
        self.declarations.push(Declaration {
            name,
            kind,
            labels,
            help,
        });
    }
}

/// The encoder appends `_total` to counters by itself.
fn counter_name(name: &'static str) -> &'static str {
    name.strip_suffix("_total").unwrap_or(name)
}

type Source = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Memory of the process by kind. The resident memory is always there; allocator and pools are
/// added by whoever knows them.
#[derive(Clone, Default)]
pub struct MemoryMetrics {
    sources: Arc<Mutex<Vec<(&'static str, Source)>>>,
}

impl fmt::Debug for MemoryMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.sources().into_iter().map(|(kind, _)| kind).collect();
        f.debug_struct("MemoryMetrics")
            .field("kinds", &kinds)
            .finish()
    }
}

impl MemoryMetrics {
    /// Adds a kind of memory, such as `jemalloc_resident`; a kind that is there is replaced.
    ///
    /// `read` answers in bytes, or `None` when it can't tell. It is called for every scrape, so it
    /// must be quick and must not block.
    pub fn add(&self, kind: &'static str, read: impl Fn() -> Option<u64> + Send + Sync + 'static) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|(known, _)| *known != kind);
        sources.push((kind, Arc::new(read)));
    }

    fn sources(&self) -> Vec<(&'static str, Source)> {
        self.sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct MemoryCollector<L> {
    memory: MemoryMetrics,
    used: (&'static str, &'static str),
    limit: (&'static str, &'static str),
    labels: fn(&'static str) -> L,
}

impl<L> fmt::Debug for MemoryCollector<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.fmt(f)
    }
}

impl<L: Labels> Collector for MemoryCollector<L> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let rss: (&'static str, Source) = ("rss", Arc::new(rss_bytes));
        let (name, help) = self.used;
        let mut used = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, read) in std::iter::once(rss).chain(self.memory.sources()) {
            if let Some(bytes) = read() {
                gauge(bytes).encode(used.encode_family(&(self.labels)(kind))?)?;
            }
        }
        if let Some(bytes) = memory_limit_bytes() {
            let (name, help) = self.limit;
            gauge(bytes).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

fn gauge(bytes: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX))
}
