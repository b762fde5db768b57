//! Version `v1alpha1` of the API: `FlightCluster` and everything it is made of.
#![expect(
    unreachable_pub,
    reason = "KubeSchema derives from a copy of each type inside a function"
)]

mod auth;
mod cluster;
mod condition;
mod object_store;
mod role;
mod status;
mod storage;
mod tls;

pub use auth::{AuthMode, AuthSpec};
pub use cluster::{
    AdvertiseSpec, FlightCluster, FlightClusterSpec, ImagePullPolicy, ImageSpec, MAX_NAME_LENGTH,
    ServiceAccountSpec, Settings,
};
pub use condition::{CONDITION_TYPES, ConditionType, reason};
pub use object_store::{AzureSpec, EmbeddedStoreSpec, GcsSpec, ObjectStoreSpec, S3Spec};
pub use role::{
    CatalogSpec, EmbeddedCatalogSpec, IngesterSpec, MallocPreset, MallocSpec, PodTemplate,
    PostgresSpec, QuerierSpec,
};
pub use status::{EndpointsStatus, FlightClusterStatus, RoleStatus, TlsStatus};
pub use storage::{ScratchSpec, StorageSpec};
pub use tls::{SelfSignedSpec, TlsSpec};

/// The API group of every kind of this project.
pub const GROUP: &str = "flightcluster.io";
