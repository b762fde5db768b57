//! All objects of one cluster, and the proof of whether they have been written.

use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

/// Marks objects that have been built and not yet written.
#[derive(Clone, Copy, Debug)]
pub enum Desired {}

/// Marks objects that the API server has accepted.
#[derive(Clone, Copy, Debug)]
pub enum Applied {}

/// All objects of one cluster, kind by kind in the order in which they are written.
///
/// Pods start when their StatefulSet is written, so that comes last. A new kind is added here, and
/// the compiler then names every place that must know it, because nobody takes this apart with
/// `..`.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources<S> {
    /// The identity of the pods.
    pub service_accounts: Vec<ServiceAccount>,
    /// Keys, certificates, tokens, and what clients need to connect.
    pub secrets: Vec<Secret>,
    /// The configuration of each role, and the CA for clients.
    pub config_maps: Vec<ConfigMap>,
    /// Names of the pods and of the roles.
    pub services: Vec<Service>,
    /// How many pods of a role may be taken away at once.
    pub pod_disruption_budgets: Vec<PodDisruptionBudget>,
    /// The pods of each role.
    pub stateful_sets: Vec<StatefulSet>,
    /// Whether the objects have been written; holds no data.
    pub state: PhantomData<S>,
}

impl Resources<Desired> {
    /// Says that every object has been accepted by the API server. Only `apply` may say so.
    pub(super) fn into_applied(self) -> Resources<Applied> {
        let Self {
            service_accounts,
            secrets,
            config_maps,
            services,
            pod_disruption_budgets,
            stateful_sets,
            state: PhantomData,
        } = self;
        Resources {
            service_accounts,
            secrets,
            config_maps,
            services,
            pod_disruption_budgets,
            stateful_sets,
            state: PhantomData,
        }
    }
}
