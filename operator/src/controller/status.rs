//! Last: what the operator answers, put together once and written once.
//!
//! Pure. The time is an argument, and is used only where a condition really changed.

use flightcluster_config::Role;
use flightcluster_crds::v1alpha1::{
    CONDITION_TYPES, ConditionType, EndpointsStatus, FlightClusterStatus, RoleStatus, TlsStatus,
    reason,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::build::connection::uri;
use super::dereference::ROLES;
use super::material::{Material, Validity, validity};
use super::observe::{Observed, ObservedRole};
use super::resources::{Applied, Resources};
use super::rollout::HeldBack;
use super::validate::{Problem, Tls, ValidatedCluster};

/// Characters of a message that are kept: Kubernetes allows 32,768, people read far less.
const MAX_MESSAGE: usize = 4096;

/// How a pass ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The spec says that nothing is to be changed.
    Paused,
    /// The spec has problems; nothing was changed.
    Invalid(&'a [Problem]),
    /// Something went wrong, and the next pass tries again.
    Failed(Failure<'a>),
    /// Every object is as wanted.
    Applied(Success<'a>),
}

/// How a pass failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// What went wrong, with the causes.
    pub message: &'a str,
    /// The reason when somebody has to act before the next pass can do better.
    pub stall: Option<&'static str>,
}

/// What a pass had that got through.
#[derive(Clone, Copy, Debug)]
pub struct Success<'a> {
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// Its keys and certificates.
    pub material: &'a Material,
    /// The proof that every object has been written.
    pub resources: &'a Resources<Applied>,
    /// The roles that were left as they are for now.
    pub held_back: &'a HeldBack,
}

/// What a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The generation of the spec that the pass worked on.
    pub generation: Option<i64>,
    /// The status so far: parts that a pass didn't learn anything new about stay.
    pub previous: Option<&'a FlightClusterStatus>,
    /// How the pass ended.
    pub outcome: Outcome<'a>,
    /// How far the pods have come; `None` when they could not be looked at.
    pub observed: Option<&'a Observed>,
    /// The time.
    pub now: Timestamp,
}

/// What a condition says.
struct Finding {
    is_true: Option<bool>,
    reason: &'static str,
    message: String,
}

/// Puts the status together.
#[must_use]
pub fn build_status(input: &Input<'_>) -> FlightClusterStatus {
    let mut status = input.previous.cloned().unwrap_or_default();
    status.observed_generation = input.generation;
    if let Outcome::Applied(Success {
        cluster,
        material,
        resources: _,
        held_back: _,
    }) = input.outcome
    {
        status.template_revision = Some(cluster.template_revision);
        status.image = Some(cluster.image.reference.clone());
        status.endpoints = Some(EndpointsStatus {
            flight: uri(cluster, Role::Querier),
            ingest: uri(cluster, Role::Ingester),
        });
        status.tls = tls_status(cluster, material);
    }
    if let Some(observed) = input.observed {
        status.querier = role_status(observed.roles.get(&Role::Querier));
        status.ingester = role_status(observed.roles.get(&Role::Ingester));
        status.catalog = role_status(observed.roles.get(&Role::Catalog));
    }
    status.conditions = CONDITION_TYPES
        .iter()
        .map(|type_| condition(*type_, input, &status))
        .collect();
    status
}

fn condition(type_: ConditionType, input: &Input<'_>, status: &FlightClusterStatus) -> Condition {
    let Finding {
        is_true,
        reason,
        message,
    } = match type_ {
        ConditionType::Ready => ready(input, status),
        ConditionType::Reconciling => reconciling(input),
        ConditionType::Stalled => stalled(input),
        ConditionType::Available => available(input.observed),
        ConditionType::Degraded => degraded(input.observed),
        ConditionType::ConfigurationValid => configuration_valid(input),
        ConditionType::TlsReady => tls_ready(input, status),
    };
    let word = match is_true {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let before = input
        .previous
        .and_then(|previous| {
            previous
                .conditions
                .iter()
                .find(|c| c.type_ == type_.as_str())
        })
        .filter(|condition| condition.status == word);
    Condition {
        type_: type_.as_str().to_owned(),
        status: word.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
        observed_generation: input.generation,
        last_transition_time: before.map_or_else(
            || Time(input.now),
            |condition| condition.last_transition_time.clone(),
        ),
    }
}

fn ready(input: &Input<'_>, status: &FlightClusterStatus) -> Finding {
    let not = |reason, message| Finding {
        is_true: Some(false),
        reason,
        message,
    };
    match input.outcome {
        Outcome::Invalid(problems) => not(reason::INVALID_SPEC, list(problems)),
        Outcome::Failed(Failure { message, stall: _ }) => {
            not(reason::APPLY_FAILED, message.to_owned())
        }
        Outcome::Paused | Outcome::Applied(_) => {
            let available = available(input.observed);
            if available.is_true != Some(true) {
                return available;
            }
            let tls = tls_ready(input, status);
            if tls.is_true != Some(true) && tls.reason != reason::TLS_DISABLED {
                // Pods that answer are of no use to clients that refuse their certificate.
                return not(tls.reason, tls.message);
            }
            let rollout = rollout(input);
            if rollout.is_true == Some(true) {
                return not(rollout.reason, rollout.message);
            }
            if matches!(input.outcome, Outcome::Paused) {
                // Serving, but whether the spec is carried out nobody has looked at.
                let message = "the cluster serves; changes of its spec wait until it is no \
                               longer paused";
                return Finding {
                    is_true: Some(true),
                    reason: reason::PAUSED,
                    message: message.to_owned(),
                };
            }
            let message = "the spec is carried out and every pod is ready".to_owned();
            Finding {
                is_true: Some(true),
                reason: reason::READY,
                message,
            }
        }
    }
}

fn reconciling(input: &Input<'_>) -> Finding {
    match input.outcome {
        Outcome::Invalid(_) => Finding {
            is_true: Some(false),
            reason: reason::INVALID_SPEC,
            message: "nothing is changed until the spec is put right".to_owned(),
        },
        Outcome::Paused => Finding {
            is_true: Some(false),
            reason: reason::PAUSED,
            message: "nothing is changed while the cluster is paused".to_owned(),
        },
        Outcome::Failed(Failure {
            message: _,
            stall: Some(reason),
        }) => Finding {
            is_true: Some(false),
            reason,
            message: "nothing moves until somebody acts; the condition Stalled says how".to_owned(),
        },
        Outcome::Failed(Failure {
            message,
            stall: None,
        }) => Finding {
            is_true: Some(true),
            reason: reason::APPLY_FAILED,
            message: format!("trying again: {message}"),
        },
        Outcome::Applied(_) => rollout(input),
    }
}

/// True while pods are still to be created or replaced.
fn rollout(input: &Input<'_>) -> Finding {
    let mut waiting: Vec<String> = roles(input.observed)
        .filter(|(_, role)| !role.is_some_and(|role| role.rolled_out))
        .map(|(name, role)| {
            let ObservedRole {
                replicas,
                ready,
                updated,
                ..
            } = role.copied().unwrap_or_default();
            format!("{name}: {ready} of {replicas} pods ready, {updated} of them up to date")
        })
        .collect();
    if let Outcome::Applied(Success { held_back, .. }) = input.outcome {
        waiting.extend(held_back.message());
    }
    if waiting.is_empty() {
        let message = "every pod is up to date and ready".to_owned();
        return Finding {
            is_true: Some(false),
            reason: reason::ROLLED_OUT,
            message,
        };
    }
    Finding {
        is_true: Some(true),
        reason: reason::ROLLING_OUT,
        message: waiting.join("; "),
    }
}

fn stalled(input: &Input<'_>) -> Finding {
    match input.outcome {
        Outcome::Invalid(problems) => Finding {
            is_true: Some(true),
            reason: reason::INVALID_SPEC,
            message: list(problems),
        },
        Outcome::Failed(Failure {
            message,
            stall: Some(reason),
        }) => Finding {
            is_true: Some(true),
            reason,
            message: message.to_owned(),
        },
        Outcome::Paused | Outcome::Failed(_) | Outcome::Applied(_) => Finding {
            is_true: Some(false),
            reason: reason::PROGRESSING,
            message: "nothing stands in the way".to_owned(),
        },
    }
}

/// Every query needs the catalog, all ingesters (rows that are not in a file yet) and a querier.
fn available(observed: Option<&Observed>) -> Finding {
    if observed.is_none() {
        let message = "the pods could not be looked at".to_owned();
        return Finding {
            is_true: None,
            reason: reason::NOT_SERVING,
            message,
        };
    }
    let missing: Vec<String> = roles(observed)
        .filter_map(|(name, role)| {
            let ObservedRole {
                replicas, ready, ..
            } = role.copied().unwrap_or_default();
            let needed = if name == Role::Querier.as_str() {
                1
            } else {
                replicas.max(1)
            };
            (ready < needed).then(|| format!("{name}: {ready} of {needed} pods it needs are ready"))
        })
        .collect();
    if missing.is_empty() {
        let message = "queries and writes are answered".to_owned();
        return Finding {
            is_true: Some(true),
            reason: reason::SERVING,
            message,
        };
    }
    Finding {
        is_true: Some(false),
        reason: reason::NOT_SERVING,
        message: missing.join("; "),
    }
}

fn degraded(observed: Option<&Observed>) -> Finding {
    let failing = observed
        .map(|observed| observed.failing_pods.as_slice())
        .unwrap_or_default();
    if failing.is_empty() {
        let message = "no pod reports a failure".to_owned();
        return Finding {
            is_true: Some(false),
            reason: reason::PODS_HEALTHY,
            message,
        };
    }
    let message: Vec<String> = failing
        .iter()
        .map(|pod| format!("pod {} ({}): {}", pod.name, pod.reason, pod.message))
        .collect();
    Finding {
        is_true: Some(true),
        reason: reason::POD_FAILING,
        message: message.join("; "),
    }
}

fn configuration_valid(input: &Input<'_>) -> Finding {
    match input.outcome {
        Outcome::Invalid(problems) => Finding {
            is_true: Some(false),
            reason: reason::INVALID_SPEC,
            message: list(problems),
        },
        Outcome::Applied(_) => Finding {
            is_true: Some(true),
            reason: reason::VALID,
            message: "the spec has no problems".to_owned(),
        },
        Outcome::Paused | Outcome::Failed(_) => {
            let reason = if matches!(input.outcome, Outcome::Paused) {
                reason::PAUSED
            } else {
                reason::APPLY_FAILED
            };
            let message = "the spec has not been looked at in full".to_owned();
            kept(
                input,
                ConditionType::ConfigurationValid,
                Finding {
                    is_true: None,
                    reason,
                    message,
                },
            )
        }
    }
}

fn tls_ready(input: &Input<'_>, status: &FlightClusterStatus) -> Finding {
    if let Outcome::Applied(Success { cluster, .. }) = input.outcome
        && cluster.tls == Tls::Disabled
    {
        let message = "clients connect without TLS, as the spec asks".to_owned();
        return Finding {
            is_true: Some(false),
            reason: reason::TLS_DISABLED,
            message,
        };
    }
    if !matches!(input.outcome, Outcome::Applied(_)) && was_without_tls(input.previous) {
        // Nothing was changed: clients still connect as they did, whatever the spec now says.
        let message = "clients connect without TLS".to_owned();
        return Finding {
            is_true: Some(false),
            reason: reason::TLS_DISABLED,
            message,
        };
    }
    match status
        .tls
        .as_ref()
        .and_then(|tls| tls.not_after.as_ref().map(|end| (tls, end)))
    {
        Some((tls, end)) if input.now < end.0 => Finding {
            is_true: Some(true),
            reason: reason::CERTIFICATE_VALID,
            message: format!(
                "the certificate in Secret {} is valid until {}",
                tls.secret_name, end.0
            ),
        },
        Some((tls, end)) => Finding {
            is_true: Some(false),
            reason: reason::CERTIFICATE_EXPIRED,
            message: format!(
                "the certificate in Secret {} ended at {}",
                tls.secret_name, end.0
            ),
        },
        None => {
            let message = "there is no certificate yet".to_owned();
            kept(
                input,
                ConditionType::TlsReady,
                Finding {
                    is_true: Some(false),
                    reason: reason::CERTIFICATE_MISSING,
                    message,
                },
            )
        }
    }
}

fn was_without_tls(previous: Option<&FlightClusterStatus>) -> bool {
    previous.is_some_and(|previous| {
        previous.conditions.iter().any(|condition| {
            condition.type_ == ConditionType::TlsReady.as_str()
                && condition.reason == reason::TLS_DISABLED
        })
    })
}

/// Returns what a condition said before about the same generation, else `otherwise`: a failure in
/// one place is no news about another.
fn kept(input: &Input<'_>, type_: ConditionType, otherwise: Finding) -> Finding {
    let reasons = [
        reason::VALID,
        reason::INVALID_SPEC,
        reason::CERTIFICATE_MISSING,
    ];
    let before = input.previous.and_then(|previous| {
        previous
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_.as_str())
    });
    let Some(before) = before.filter(|before| before.observed_generation == input.generation)
    else {
        return otherwise;
    };
    let Some(reason) = reasons.into_iter().find(|reason| *reason == before.reason) else {
        return otherwise;
    };
    let is_true = match before.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    Finding {
        is_true,
        reason,
        message: before.message.clone(),
    }
}

fn tls_status(cluster: &ValidatedCluster, material: &Material) -> Option<TlsStatus> {
    match &cluster.tls {
        Tls::Disabled => None,
        Tls::SelfSigned { .. } => {
            let validity = material.public.as_ref().and_then(|(_, leaf)| leaf.validity);
            Some(TlsStatus {
                secret_name: cluster.names.public_tls_secret(),
                not_after: validity.map(|validity| Time(validity.not_after)),
                renewal_time: validity.map(|validity| Time(Validity::renewal(validity))),
            })
        }
        Tls::Secret {
            name,
            certificate,
            ca: _,
        } => Some(TlsStatus {
            secret_name: name.clone(),
            not_after: certificate
                .as_deref()
                .and_then(validity)
                .map(|v| Time(v.not_after)),
            renewal_time: None,
        }),
    }
}

fn role_status(role: Option<&ObservedRole>) -> Option<RoleStatus> {
    role.map(
        |ObservedRole {
             replicas,
             ready,
             updated,
             rolled_out: _,
         }| RoleStatus {
            ready: format!("{ready}/{replicas}"),
            replicas: *replicas,
            ready_replicas: *ready,
            updated_replicas: *updated,
        },
    )
}

fn roles(
    observed: Option<&Observed>,
) -> impl Iterator<Item = (&'static str, Option<&ObservedRole>)> {
    let wanted = observed.map_or(&ROLES[..], |observed| &observed.wanted);
    wanted.iter().copied().map(move |role| {
        (
            role.as_str(),
            observed.and_then(|observed| observed.roles.get(&role)),
        )
    })
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests;
