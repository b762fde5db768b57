//! The names of all objects and the DNS names that follow from them.
//!
//! Every name is made here once, so that the certificate, the configuration and the Services can't
//! disagree.

use flightcluster_config::Role;

use super::pod::mounts::DATA_VOLUME;

/// The names of the objects of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cluster: String,
}

impl Names {
    /// The names of the objects of the cluster called `cluster`.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
        }
    }

    /// The cluster's own name, which is also that of its ServiceAccount.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The StatefulSet, the ConfigMap and the PodDisruptionBudget of a role.
    #[must_use]
    pub fn role(&self, role: Role) -> String {
        format!("{}-{}", self.cluster, role.as_str())
    }

    /// What the names of the volume claims of a role begin with; the number of the pod follows.
    #[must_use]
    pub fn claim_prefix(&self, role: Role) -> String {
        format!("{DATA_VOLUME}-{}-", self.role(role))
    }

    /// The headless Service that gives each pod of a role a DNS name.
    #[must_use]
    pub fn headless_service(&self, role: Role) -> String {
        format!("{}-pods", self.role(role))
    }

    /// The Service through which others reach any pod of a role. The queriers are the front of the
    /// cluster and have its plain name.
    #[must_use]
    pub fn client_service(&self, role: Role) -> String {
        if role == Role::Querier {
            self.cluster.clone()
        } else {
            self.role(role)
        }
    }

    /// The Secret with the CA of the pods' own traffic and its key.
    #[must_use]
    pub fn internal_ca_secret(&self) -> String {
        format!("{}-internal-ca", self.cluster)
    }

    /// The Secret with the certificate of the pods' own traffic.
    #[must_use]
    pub fn internal_tls_secret(&self) -> String {
        format!("{}-internal-tls", self.cluster)
    }

    /// The Secret with the CA of the certificate that clients see and its key.
    #[must_use]
    pub fn public_ca_secret(&self) -> String {
        format!("{}-public-ca", self.cluster)
    }

    /// The Secret with the self-signed certificate that clients see.
    #[must_use]
    pub fn public_tls_secret(&self) -> String {
        format!("{}-tls", self.cluster)
    }

    /// The Secret with the key that tickets are signed with.
    #[must_use]
    pub fn signing_key_secret(&self) -> String {
        format!("{}-signing-key", self.cluster)
    }

    /// The Secret with the first token.
    #[must_use]
    pub fn admin_token_secret(&self) -> String {
        format!("{}-admin-token", self.cluster)
    }

    /// The Secret with all that a client needs to connect.
    #[must_use]
    pub fn connection_secret(&self) -> String {
        format!("{}-connection", self.cluster)
    }

    /// All Secrets that the operator makes.
    #[must_use]
    pub fn secrets(&self) -> [String; 7] {
        [
            self.internal_ca_secret(),
            self.internal_tls_secret(),
            self.public_ca_secret(),
            self.public_tls_secret(),
            self.signing_key_secret(),
            self.admin_token_secret(),
            self.connection_secret(),
        ]
    }

    /// The ConfigMap with the CA for clients.
    #[must_use]
    pub fn ca_config_map(&self) -> String {
        format!("{}-ca", self.cluster)
    }
}

/// The DNS names of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsNames<'a> {
    /// The names of the objects.
    pub names: &'a Names,
    /// The Kubernetes namespace.
    pub namespace: &'a str,
    /// The DNS suffix of the Kubernetes cluster, without dots at its ends.
    pub cluster_domain: &'a str,
}

impl DnsNames<'_> {
    /// The full name of the Service through which others reach any pod of a role.
    #[must_use]
    pub fn client_service(&self, role: Role) -> String {
        self.full(&self.names.client_service(role))
    }

    /// The full name of the headless Service of a role; pods have theirs below it.
    #[must_use]
    pub fn headless_service(&self, role: Role) -> String {
        self.full(&self.names.headless_service(role))
    }

    /// The names under which clients reach the public port of a role: those of its Services, short
    /// and long, and, by a wildcard, those of its pods, however many there will be.
    #[must_use]
    pub fn public(&self, role: Role) -> Vec<String> {
        let service = self.names.client_service(role);
        let headless = self.names.headless_service(role);
        let pods = format!("*.{headless}");
        let mut names = vec![service.clone(), headless.clone(), pods.clone()];
        for name in [service, headless, pods] {
            names.push(format!("{name}.{}", self.namespace));
            names.push(format!("{name}.{}.svc", self.namespace));
            names.push(self.full(&name));
        }
        names
    }

    /// The names under which pods reach each other.
    #[must_use]
    pub fn internal(&self, role: Role) -> Vec<String> {
        vec![
            self.client_service(role),
            format!("*.{}", self.headless_service(role)),
        ]
    }

    fn full(&self, service: &str) -> String {
        format!("{service}.{}.svc.{}", self.namespace, self.cluster_domain)
    }
}
