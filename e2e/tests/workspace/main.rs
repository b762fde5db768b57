//! Rules of the repository that no compiler checks: which crate may know which, one version of the
//! libraries whose types we exchange, what files look like and where they may be.
//!
//! Every rule is a pure function from plain data to the list of what breaks it; its own unit tests
//! show that it finds a breach. The tests here feed it the repository. Licences are left to
//! cargo-deny (deny.toml), formatting and lints to rustfmt and clippy.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod edges;
mod files;
mod guards;
mod links;
mod lock;
mod repository;
mod versions;

use repository::{metadata, text_files};

/// Fails with one line per breach.
fn assert_none(breaches: &[String]) {
    assert!(
        breaches.is_empty(),
        "{} found:\n  {}",
        breaches.len(),
        breaches.join("\n  ")
    );
}

#[test]
fn crates_know_only_the_crates_they_may_know() {
    let crates = edges::read(&metadata());
    assert!(crates.len() >= 15, "only {} crates were read", crates.len());
    assert_none(&edges::forbidden(&crates));
}

#[test]
fn libraries_are_used_only_where_they_may_be_known() {
    assert_none(&edges::misplaced(&edges::read(&metadata())));
}

#[test]
fn libraries_whose_types_we_exchange_have_one_version() {
    let resolved = versions::read(&metadata());
    assert!(
        resolved.len() > 100,
        "only {} packages were read",
        resolved.len()
    );
    assert_none(&versions::duplicates(&resolved));
}

#[test]
fn rust_files_say_what_they_are_for() {
    assert_none(&files::without_module_doc(&text_files()));
}

#[test]
fn no_merge_left_its_marks() {
    assert_none(&files::conflict_marks(&text_files()));
}

#[test]
fn nothing_is_named_for_being_left_over() {
    assert_none(&files::vague_names(&text_files()));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    assert_none(&files::machine_paths(&text_files()));
}

#[test]
fn files_are_short_enough_to_read() {
    assert_none(&files::too_long(&text_files()));
}

#[test]
fn links_between_documents_lead_somewhere() {
    assert_none(&links::broken(&text_files()));
}

#[test]
fn tests_named_by_the_architecture_exist() {
    let files = text_files();
    let architecture = &files["docs/ARCHITECTURE.md"];
    assert!(
        guards::named(architecture).len() >= 7,
        "too few invariants name their test"
    );
    assert_none(&guards::missing(architecture, &files));
}

#[test]
fn every_python_package_that_is_asked_for_is_locked() {
    let files = text_files();
    assert_none(&lock::unlocked(
        &files["clients/requirements.in"],
        &files["clients/requirements.txt"],
    ));
}
