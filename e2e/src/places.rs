//! Where the harness keeps its files, and the environment it gives to the commands inside a node.
//!
//! Everything lies below one cache folder, outside the clone. What is in the folders is decided by
//! the modules that fill them.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Names the cache folder; without it `$HOME/.cache/flightcluster` is used.
pub const CACHE_VARIABLE: &str = "FLIGHTCLUSTER_CACHE";

/// Set for every command inside a node: the state folder of that node.
pub const NODE_VARIABLE: &str = "FLIGHTCLUSTER_NODE";

/// Set for every command inside a node: the administrator's kubeconfig.
pub const KUBECONFIG_VARIABLE: &str = "KUBECONFIG";

/// Moves the folder below which every failing run leaves its dumps.
pub const DUMPS_VARIABLE: &str = "FLIGHTCLUSTER_DUMPS";

/// Set for every command inside a node: the folder for the dumps of this run's failing tests.
pub const RUN_DUMPS_VARIABLE: &str = "FLIGHTCLUSTER_RUN_DUMPS";

/// The folders shared by all nodes of one user.
#[derive(Debug, Clone)]
pub struct Places {
    cache: PathBuf,
}

impl Places {
    /// Finds the cache folder from the environment.
    ///
    /// Errors: neither [`CACHE_VARIABLE`] nor `HOME` is set.
    pub fn from_environment() -> Result<Self> {
        let cache = match env::var_os(CACHE_VARIABLE) {
            Some(cache) => std::path::absolute(cache).context("resolving FLIGHTCLUSTER_CACHE")?,
            None => PathBuf::from(
                env::var_os("HOME").context("set FLIGHTCLUSTER_CACHE or HOME: neither is set")?,
            )
            .join(".cache/flightcluster"),
        };
        Ok(Self { cache })
    }

    /// Places below a given cache folder.
    pub fn below(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// The compiled tools (`e2e/tools/build.sh` fills it).
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools/bin")
    }

    /// The root file system of the product image, as a tar file with its stamp.
    pub fn image_bases(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Where the product's image is written when no other path is given.
    pub fn product_image(&self) -> PathBuf {
        self.image_bases().join("flightcluster.tar")
    }

    /// The state folders of all nodes.
    pub fn nodes(&self) -> PathBuf {
        self.cache.join("nodes")
    }

    /// The state of the node `name`.
    pub fn node(&self, name: &str) -> NodeFolder {
        NodeFolder::new(self.nodes().join(name))
    }

    /// What failing tests of the run `name` leave behind. The variable [`DUMPS_VARIABLE`] moves it.
    pub fn dumps(&self, name: &str) -> PathBuf {
        match env::var_os(DUMPS_VARIABLE) {
            Some(folder) => PathBuf::from(folder).join(name),
            None => self.cache.join("dumps").join(name),
        }
    }
}

/// The state folder of one node: everything that node writes is below it.
#[derive(Debug, Clone)]
pub struct NodeFolder {
    root: PathBuf,
}

impl NodeFolder {
    /// Wraps an existing or future folder.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder below it.
    pub fn join(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The name of the node's run: the last element of the path.
    pub fn name(&self) -> String {
        self.root
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.join("admin.kubeconfig")
    }

    /// One log file for each daemon.
    pub fn logs(&self) -> PathBuf {
        self.join("logs")
    }

    /// The archives that are imported into the container runtime when the node starts.
    pub fn images(&self) -> PathBuf {
        self.join("images")
    }

    /// The directories behind the volumes of the default StorageClass.
    pub fn volumes(&self) -> PathBuf {
        self.join("volumes")
    }

    /// The host's process id of the first process of the node's process namespace.
    pub fn init_pid_file(&self) -> PathBuf {
        self.join("init.pid")
    }

    /// Exists once the node is Ready with DNS and storage.
    pub fn ready_file(&self) -> PathBuf {
        self.join("ready")
    }

    /// The name of the node's own cgroup in every hierarchy.
    pub fn cgroup(&self) -> String {
        format!("flightcluster-{}", self.name())
    }
}
