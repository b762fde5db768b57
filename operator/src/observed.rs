//! What the operator shows of its work: metrics of passes and steps, and events on clusters.
//!
//! The metrics themselves are declared in `flightcluster-telemetry`.

use std::error::Error;
use std::time::{Duration, Instant};

use flightcluster_crds::v1alpha1::{ConditionType, FlightClusterStatus};
use flightcluster_telemetry::metrics::{
    CategoryLabels, OperatorMetrics, OutcomeLabels, StepLabels,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tracing::{debug, warn};

/// The largest note of an event that an API server accepts is 1024 bytes.
const MAX_NOTE_BYTES: usize = 1000;

/// A step of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading what a spec names.
    Dereference,
    /// Checking the spec.
    Validate,
    /// Building the objects.
    Build,
    /// Writing the objects.
    Apply,
    /// Looking at the pods.
    Observe,
    /// Writing the status.
    Status,
}

impl Step {
    /// Returns the name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dereference => "dereference",
            Self::Validate => "validate",
            Self::Build => "build",
            Self::Apply => "apply",
            Self::Observe => "observe",
            Self::Status => "status",
        }
    }
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassOutcome {
    /// Everything is as wanted.
    Applied,
    /// Everything was done, and now pods or the user have to do their part.
    Waiting,
    /// There was nothing to do.
    Skipped,
    /// Something went wrong; it will be tried again.
    Failed,
}

impl PassOutcome {
    /// Returns the name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Waiting => "waiting",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// Something to tell with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    is_warning: bool,
    reason: String,
    note: String,
}

impl News {
    /// News that need no attention.
    pub fn normal(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self {
            is_warning: false,
            reason: reason.into(),
            note: note.into(),
        }
    }

    /// News that somebody should look at.
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self {
            is_warning: true,
            reason: reason.into(),
            note: note.into(),
        }
    }
}

/// Counts, times and tells.
#[derive(Clone)]
pub struct Observer {
    metrics: OperatorMetrics,
    recorder: Recorder,
}

impl Observer {
    /// An observer that counts in `metrics` and tells by `recorder`.
    #[must_use]
    pub fn new(metrics: OperatorMetrics, recorder: Recorder) -> Self {
        Self { metrics, recorder }
    }

    /// Times a step that waits for an API server.
    pub async fn step<F: Future>(&self, step: Step, work: F) -> F::Output {
        let started = Instant::now();
        let output = work.await;
        self.observe_step(step, started.elapsed());
        output
    }

    /// Times a pure step.
    pub fn pure_step<T>(&self, step: Step, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let output = work();
        self.observe_step(step, started.elapsed());
        output
    }

    /// Counts a pass.
    pub fn pass(&self, outcome: PassOutcome, took: Duration) {
        let labels = OutcomeLabels {
            outcome: outcome.as_str(),
        };
        self.metrics.reconciles.get_or_create(&labels).inc();
        self.metrics
            .reconcile_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts a failure.
    pub fn failure(&self, category: &'static str) {
        self.metrics
            .reconcile_failures
            .get_or_create(&CategoryLabels { category })
            .inc();
    }

    /// Tells news as events on `reference`. An event that can't be written is logged: it must not
    /// stop the work it speaks of.
    pub async fn tell(&self, reference: &ObjectReference, news: &[News]) {
        for News {
            is_warning,
            reason,
            note,
        } in news
        {
            let event = Event {
                type_: if *is_warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: reason.clone(),
                note: Some(shorten(note)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, reference).await {
                warn!(error = %chain(&error), reason, "event could not be written");
            }
        }
    }

    fn observe_step(&self, step: Step, took: Duration) {
        let labels = StepLabels {
            step: step.as_str(),
        };
        self.metrics
            .step_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        debug!(
            step = step.as_str(),
            seconds = took.as_secs_f64(),
            "step ended"
        );
    }
}

/// Returns what is new in a status: conditions that turned, for people who watch events. A status
/// that says what it said before is no news.
#[must_use]
pub fn news_of(before: Option<&FlightClusterStatus>, after: &FlightClusterStatus) -> Vec<News> {
    let mut news = Vec::new();
    for (type_, bad) in [
        (ConditionType::ConfigurationValid, "False"),
        (ConditionType::Degraded, "True"),
        (ConditionType::Ready, "False"),
    ] {
        let find = |status: &FlightClusterStatus| {
            status
                .conditions
                .iter()
                .find(|condition| condition.type_ == type_.as_str())
                .cloned()
        };
        let Some(now) = find(after) else { continue };
        let then = before.and_then(find);
        let turned = then.as_ref().is_none_or(|then| then.status != now.status);
        let says_more = now.status == bad
            && type_ == ConditionType::ConfigurationValid
            && then
                .as_ref()
                .is_some_and(|then| then.message != now.message);
        if now.status == bad && (says_more || turned) {
            // Before the first time it is ready a cluster is only on its way.
            let is_first = type_ == ConditionType::Ready && then.is_none();
            if !is_first {
                news.push(News::warning(&now.reason, &now.message));
            }
        } else if turned && type_ == ConditionType::Ready && now.status == "True" {
            news.push(News::normal(&now.reason, &now.message));
        }
    }
    news.dedup();
    news
}

/// Returns an error with its causes in one line, without a cause whose text is already there.
///
/// Of an answer of the API server only the message for people is shown; kube would add its whole
/// structure.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let refused = api_message(error);
        let own = refused.map_or_else(|| error.to_string(), str::to_owned);
        if text.is_empty() {
            text = own;
        } else if !text.contains(&own) {
            text.push_str(": ");
            text.push_str(&own);
        }
        next = if refused.is_some() {
            None
        } else {
            error.source()
        };
    }
    text
}

fn api_message<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    let boxed = error.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
    match boxed.or_else(|| error.downcast_ref::<kube::Error>()) {
        Some(kube::Error::Api(status)) => Some(&status.message),
        _ => None,
    }
}

fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_NOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> FlightClusterStatus {
        let condition = |(type_, status, message): &(&str, &str, &str)| Condition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            reason: "Because".to_owned(),
            message: (*message).to_owned(),
            observed_generation: None,
            last_transition_time: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        };
        FlightClusterStatus {
            conditions: conditions.iter().map(condition).collect(),
            ..FlightClusterStatus::default()
        }
    }

    #[test]
    fn an_unchanged_status_is_no_news() {
        let bad = status(&[
            ("ConfigurationValid", "False", "a"),
            ("Ready", "False", "a"),
        ]);
        assert_eq!(news_of(Some(&bad), &bad), []);
    }

    #[test]
    fn another_problem_of_a_bad_spec_is_news() {
        let before = status(&[("ConfigurationValid", "False", "a")]);
        let after = status(&[("ConfigurationValid", "False", "b")]);
        assert_eq!(
            news_of(Some(&before), &after),
            [News::warning("Because", "b")]
        );
    }

    #[test]
    fn becoming_ready_is_good_news_and_a_first_not_ready_is_none() {
        let not_ready = status(&[("Ready", "False", "x")]);
        assert_eq!(news_of(None, &not_ready), []);
        let ready = status(&[("Ready", "True", "y")]);
        assert_eq!(
            news_of(Some(&not_ready), &ready),
            [News::normal("Because", "y")]
        );
        assert_eq!(
            news_of(Some(&ready), &not_ready),
            [News::warning("Because", "x")]
        );
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(shorten(&"ü".repeat(2000)).len(), MAX_NOTE_BYTES);
        assert!(shorten(&format!("a{}", "ü".repeat(2000))).len() < MAX_NOTE_BYTES);
    }

    #[test]
    fn an_answer_of_the_api_server_is_shown_by_its_message() {
        let status = kube::core::Status::failure("no such kind", "NotFound").with_code(404);
        let source = Box::new(kube::Error::Api(status.boxed()));
        let error = crate::controller::apply::Error::Apply {
            object: "Service/x".into(),
            source,
        };
        assert_eq!(chain(&error), "applying Service/x: no such kind");
    }

    #[test]
    fn a_cause_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: inner")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner;
        assert_eq!(chain(&Outer(Inner)), "outer: inner");
    }
}
