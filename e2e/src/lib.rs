//! A real one-node Kubernetes for the end-to-end tests.
//!
//! Two sides use this crate:
//!
//! - The program `flightcluster-node` brings a node up in private namespaces, runs one command
//!   inside, removes everything and fails if anything is left: [`runner`], [`node`], [`image`],
//!   [`provisioner`], [`cgroups`] and [`leftovers`].
//! - Tests run inside such a node and use [`cluster`]: one Kubernetes namespace for each test,
//!   conditions with a limit, a dump of everything when a test fails.
//!
//! ```text
//! flightcluster-node run ── setpriv, unshare ── init (pid 1) ── node ──┬─ etcd, kube-*, containerd, kubelet
//!   outside: images, cgroup,                                          ├─ provisioner (a task)
//!   waiting, clean-up, leftovers                                      └─ the command: tests, clients
//! ```
//!
//! What the product does is tested in `e2e/tests`; nothing here knows FlightCluster beyond the
//! names of its two binaries.

pub mod cgroups;
pub mod cluster;
pub mod command;
pub mod image;
pub mod leftovers;
pub mod node;
pub mod places;
pub mod provisioner;
pub mod runner;
