//! The images of a node: pause, busybox, DNS, and the product itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::base::{self, Freshness};
use super::{ImageConfig, Layer, LayerBuilder, Owner, write_archive};
use crate::command;
use crate::places::Places;

/// The container behind every pod.
pub const PAUSE: &str = "localhost/pause:1";
/// A shell and small tools, for tests.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// The cluster's DNS server.
pub const COREDNS: &str = "localhost/coredns:1";
/// The product: both binaries, the data plane's as entry point.
pub const PRODUCT: &str = "localhost/flightcluster:dev";
/// The same image under another name, for tests of upgrades.
pub const PRODUCT_NEXT: &str = "localhost/flightcluster:next";

/// The names of the product's binaries.
pub const PRODUCT_BINARIES: [&str; 2] = ["flightcluster", "flightcluster-operator"];

const PAUSE_SOURCE: &str = include_str!("pause.c");

/// Writes the archives that every node needs into `folder`.
pub fn write_node_images(places: &Places, folder: &Path) -> Result<()> {
    write_pause(folder)?;
    write_busybox(folder)?;
    write_single_program(folder, COREDNS, "coredns", &places.tools().join("coredns"))
}

/// The folder of this program if the product's binaries are in it too, as after `cargo build`.
pub fn binaries_beside_this_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let complete = PRODUCT_BINARIES
        .iter()
        .all(|name| folder.join(name).is_file());
    complete.then(|| folder.to_owned())
}

/// Writes the product's archive to `path` from the two binaries in the folder `binaries`.
///
/// - `compress` makes it about a quarter of the size, for an archive that travels.
/// - Errors: a binary is missing, or the Debian packages under it cannot be fetched.
pub fn write_product(
    places: &Places,
    binaries: &Path,
    path: &Path,
    freshness: Freshness,
    compress: bool,
) -> Result<()> {
    let base_tar = base::prepare(places, freshness)?;
    let mut lower = LayerBuilder::create(&part(path, "base"))?;
    base::add_to(&mut lower, &base_tar)?;
    let mut upper = LayerBuilder::create(&part(path, "binaries"))?;
    for name in PRODUCT_BINARIES {
        let binary = binaries.join(name);
        ensure!(
            binary.is_file(),
            "there is no {}: build both binaries first (make build)",
            binary.display()
        );
        upper.program(&format!("usr/local/bin/{name}"), &binary)?;
    }
    let mut layers = Vec::new();
    for layer in [lower.finish()?, upper.finish()?] {
        layers.push(if compress { layer.compress()? } else { layer });
    }
    write_and_clean(path, &product_config(), &layers)
}

fn product_config() -> ImageConfig {
    ImageConfig {
        name: PRODUCT.to_owned(),
        entrypoint: vec!["/usr/local/bin/flightcluster".to_owned()],
        user: "65532:65532".to_owned(),
        environment: vec![
            "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
            "HOME=/home/nonroot".to_owned(),
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt".to_owned(),
        ],
        working_folder: "/home/nonroot".to_owned(),
        ports: vec![
            "17001/tcp".to_owned(),
            "17002/tcp".to_owned(),
            "17101/tcp".to_owned(),
        ],
        labels: vec![
            (
                "org.opencontainers.image.title".to_owned(),
                "FlightCluster".to_owned(),
            ),
            (
                "org.opencontainers.image.version".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
            (
                "org.opencontainers.image.licenses".to_owned(),
                "Apache-2.0".to_owned(),
            ),
        ],
    }
}

fn write_pause(folder: &Path) -> Result<()> {
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    fs::write(&source, PAUSE_SOURCE).context("writing the pause program")?;
    let mut compile = Command::new("cc");
    compile
        .args(["-static", "-Os", "-o"])
        .arg(&program)
        .arg(&source);
    command::run(&mut compile).context("compiling the pause program")?;
    write_single_program(folder, PAUSE, "pause", &program)?;
    for file in [source, program] {
        fs::remove_file(file).context("removing what the pause image was made from")?;
    }
    Ok(())
}

fn write_busybox(folder: &Path) -> Result<()> {
    let busybox = command::find("busybox")
        .context("busybox is missing: e2e/setup.sh installs the package busybox-static")?;
    let applets = command::run(Command::new(&busybox).arg("--list"))?;
    let path = folder.join("busybox.tar");
    let mut layer = LayerBuilder::create(&part(&path, "layer"))?;
    layer.program("bin/busybox", &busybox)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer.folder("tmp", 0o1777, Owner::ROOT)?;
    let config = ImageConfig {
        name: BUSYBOX.to_owned(),
        entrypoint: vec!["/bin/sh".to_owned()],
        environment: vec!["PATH=/bin".to_owned()],
        ..ImageConfig::default()
    };
    write_and_clean(&path, &config, &[layer.finish()?])
}

/// An image with nothing but one static program.
fn write_single_program(folder: &Path, image: &str, name: &str, program: &Path) -> Result<()> {
    let path = folder.join(format!("{name}.tar"));
    let mut layer = LayerBuilder::create(&part(&path, "layer"))?;
    layer.program(name, program)?;
    let config = ImageConfig {
        name: image.to_owned(),
        entrypoint: vec![format!("/{name}")],
        ..ImageConfig::default()
    };
    write_and_clean(&path, &config, &[layer.finish()?])
}

/// A scratch file beside an archive.
fn part(archive: &Path, name: &str) -> PathBuf {
    archive.with_extension(format!("{name}.part"))
}

fn write_and_clean(path: &Path, config: &ImageConfig, layers: &[Layer]) -> Result<()> {
    write_archive(path, config, layers)?;
    for layer in layers {
        fs::remove_file(&layer.path).context("removing a layer's scratch file")?;
    }
    Ok(())
}
