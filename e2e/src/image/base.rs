//! The Debian files under the product's binaries: C library, certificate authorities, time zones.
//!
//! They come from the Debian release of this machine, because the binaries were linked against its
//! C library. The `Dockerfile` at the root of the repository starts from the same release.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{LayerBuilder, Owner};
use crate::command;
use crate::places::Places;

/// What the image needs from Debian. `base-files` brings `os-release` and, on newer releases, the
/// links from `/lib` to `/usr/lib`.
const PACKAGES: &str = "base-files,libc6,libgcc-s1,ca-certificates,tzdata";

/// What is taken over from the packages and those they depend on: nothing that could be run.
const KEPT: [&str; 10] = [
    "etc/debian_version",
    "etc/os-release",
    "lib",
    "lib64",
    "usr/lib",
    "usr/lib64",
    "usr/share/ca-certificates",
    "usr/share/common-licenses",
    "usr/share/doc",
    "usr/share/zoneinfo",
];

/// Below those, by a part of the path: character sets, OpenSSL (rustls is compiled in), the time
/// zones a second time.
const LEFT_OUT: [&str; 9] = [
    "gconv",
    "audit",
    "engines-3",
    "ossl-modules",
    "ssl",
    "libssl.so.3",
    "libcrypto.so.3",
    "posix",
    "right",
];

/// Folders that a container expects, with their modes.
const FOLDERS: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
];

/// What the packages' install scripts would have written.
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/usr/sbin/nologin\n\
         nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
];

/// Whether a base that is already there will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Ask Debian's archive for the newest packages: for an image that ships.
    Newest,
    /// Take the one in the cache if there is one: for tests.
    Cached,
}

/// Returns the tar file with the Debian packages, fetching it when needed (about 5 seconds).
///
/// Errors: `mmdebstrap` is missing or cannot reach the archive that this machine's apt uses.
pub fn prepare(places: &Places, freshness: Freshness) -> Result<PathBuf> {
    let suite = suite()?;
    let stamp = format!("{PACKAGES} from {suite}");
    let folder = places.image_bases();
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let (path, stamp_path) = (folder.join("base.tar"), folder.join("base.stamp"));
    let cached = fs::read_to_string(&stamp_path).is_ok_and(|found| found == stamp);
    if freshness == Freshness::Cached && cached && path.exists() {
        return Ok(path);
    }
    let unfinished = folder.join(format!("base.{}.tar", std::process::id()));
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap
        .args([
            "--quiet",
            "--mode=root",
            "--variant=extract",
            "--format=tar",
        ])
        .arg(format!("--include={PACKAGES}"))
        .arg(&suite)
        .arg(&unfinished)
        .stdin(Stdio::null());
    if let Some(sources) = apt_sources() {
        bootstrap.arg(sources);
    }
    command::run(&mut bootstrap).context("fetching the image's Debian packages")?;
    fs::rename(&unfinished, &path).context("keeping the image's Debian packages")?;
    fs::write(&stamp_path, stamp).context("stamping the image's Debian packages")?;
    Ok(path)
}

/// Copies the base into a layer and adds what the packages' install scripts would have made.
pub(super) fn add_to(layer: &mut LayerBuilder, base: &Path) -> Result<()> {
    let file = File::open(base).with_context(|| format!("opening {}", base.display()))?;
    let mut archive = tar::Archive::new(file);
    let mut authorities = Vec::new();
    for (folder, mode) in FOLDERS {
        layer.folder(folder, mode, Owner::ROOT)?;
    }
    for entry in archive.entries().context("reading the image's base")? {
        let mut entry = entry.context("reading the image's base")?;
        let path = entry
            .path()
            .context("reading the image's base")?
            .into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
        if !is_kept(&path) {
            continue;
        }
        if path.starts_with("usr/share/ca-certificates") {
            entry
                .read_to_end(&mut authorities)
                .context("reading a certificate authority")?;
        } else {
            layer.entry(&path, &mut entry)?;
        }
    }
    layer.bytes(
        "etc/ssl/certs/ca-certificates.crt",
        0o644,
        Owner::ROOT,
        &authorities,
    )?;
    for (name, text) in FILES {
        layer.bytes(name, 0o644, Owner::ROOT, text.as_bytes())?;
    }
    layer.folder("home/nonroot", 0o750, Owner::NONROOT)
}

fn is_kept(path: &Path) -> bool {
    // A package's folder, or a link to another package's, and its licence: nothing deeper.
    let documentation = path.strip_prefix("usr/share/doc").is_ok_and(|below| {
        let depth = below.iter().count();
        depth > 2 || (depth == 2 && !below.ends_with("copyright"))
    });
    KEPT.iter().any(|folder| path.starts_with(folder))
        && !documentation
        && !path
            .iter()
            .any(|part| LEFT_OUT.iter().any(|name| part == *name))
}

/// The code name of this machine's Debian release.
fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let line = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.map(|name| name.trim_matches('"').to_owned())
        .context("this machine's /etc/os-release names no VERSION_CODENAME: use Debian or Ubuntu")
}

/// The file with the distribution's own archives; other files may name archives of other projects.
fn apt_sources() -> Option<&'static Path> {
    [
        "/etc/apt/sources.list.d/debian.sources",
        "/etc/apt/sources.list.d/ubuntu.sources",
    ]
    .into_iter()
    .map(Path::new)
    .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_texts_stay_and_change_logs_go() {
        assert!(is_kept(Path::new("usr/share/doc/libc6/copyright")));
        assert!(!is_kept(Path::new(
            "usr/share/doc/libc6/changelog.Debian.gz"
        )));
    }

    #[test]
    fn libraries_and_time_zones_stay_and_programs_go() {
        assert!(is_kept(Path::new("lib/x86_64-linux-gnu/libc.so.6")));
        assert!(is_kept(Path::new("usr/share/zoneinfo/Europe/Prague")));
        assert!(!is_kept(Path::new(
            "usr/share/zoneinfo/right/Europe/Prague"
        )));
        assert!(!is_kept(Path::new("usr/bin/openssl")));
    }

    #[test]
    fn nothing_of_the_machine_that_built_the_image_is_in_it() {
        assert!(!is_kept(Path::new("etc/hostname")));
        assert!(!is_kept(Path::new("etc/resolv.conf")));
    }
}
