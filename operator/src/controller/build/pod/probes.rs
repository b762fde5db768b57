//! The probes. Their handlers are fixed; a `podTemplate` can change their times.

use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Builds the startup probe: half an hour, because an ingester reads its whole write-ahead log.
pub(super) fn startup() -> Probe {
    Probe {
        failure_threshold: Some(900),
        ..probe("/startup", 2)
    }
}

/// Builds the readiness probe: a pod that drains must soon get no new calls.
pub(super) fn readiness() -> Probe {
    Probe {
        failure_threshold: Some(2),
        ..probe("/ready", 2)
    }
}

/// Builds the liveness probe: a minute, because a restart helps only a process that is stuck.
pub(super) fn liveness() -> Probe {
    Probe {
        failure_threshold: Some(6),
        ..probe("/live", 10)
    }
}

fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}
