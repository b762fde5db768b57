//! What every [`Catalog`] must do, whatever is behind it.
//!
//! `contract!(open)` makes one test of each behaviour below; `open` is an async function that gives
//! a value with a field `catalog: Arc<dyn Catalog>` over empty storage.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]
#![allow(
    unused_macros,
    unused_imports,
    reason = "not every binary runs the contract"
)]

pub mod flushes;
pub mod ingesters;
pub mod logs;
pub mod names;
pub mod open;
pub mod orders;
pub mod past;
pub mod producers;
pub mod snapshots;
pub mod statements;
pub mod tables;
pub mod upkeep;
pub mod uploads;

use std::collections::BTreeMap;
use std::sync::Arc;

use flightcluster_catalog::{
    Catalog, CreateTable, Epoch, FlushCommit, FlushCommitted, IfExists, Ingester, IngesterCheck,
    LogId, LogState, NewFile, RegisterIngester, Registration, SchemaBytes, SchemaVersion,
    SequenceNumber, SnapshotStamp, Table, TableId, TableName,
};
use uuid::Uuid;

pub type Subject = Arc<dyn Catalog>;

/// Makes a module of tests from `module::{test, …}` of the contract.
macro_rules! contract {
    ($open:path) => {
        $crate::contract::contract!(@tests $open, names {
            the_default_database_exists_from_the_start,
            a_database_is_created_once,
            unusable_names_are_refused,
        });
        $crate::contract::contract!(@tests $open, tables {
            a_created_table_is_found_by_name_and_by_id,
            an_existing_table_is_refused_kept_or_replaced,
            replacing_a_table_is_one_snapshot,
            a_missing_database_is_created_only_when_asked,
            a_dropped_table_is_gone_and_its_name_is_free,
            a_drop_that_comes_late_ends_no_later_table_of_the_name,
            only_the_table_that_was_seen_is_replaced,
            a_late_repeat_sets_no_option_again,
            only_the_table_that_was_seen_gets_other_options,
            a_schema_evolves_only_from_the_present_version,
            tables_are_listed_by_name_and_database,
            options_are_set_and_removed_and_those_of_a_database_are_with_its_tables,
            an_unpublished_table_is_in_no_list_until_it_gets_its_name_with_all_it_holds,
            publishing_refuses_keeps_or_replaces_the_table_of_that_name,
            a_repeated_or_late_publication_changes_nothing,
            nobody_creates_a_table_among_the_unpublished_ones,
        });
        $crate::contract::contract!(@tests $open, ingesters {
            an_ingester_keeps_its_id_and_gets_the_next_epoch,
            a_stale_or_unknown_ingester_is_fenced,
            a_drained_ingester_is_not_asked_until_it_registers_again,
            registering_returns_watermarks,
            a_retired_ingester_is_not_asked_and_its_process_is_fenced,
            retiring_may_lose_rows_only_when_that_is_accepted,
        });
        $crate::contract::contract!(@tests $open, open {
            only_ingesters_with_an_open_table_are_asked_for_it,
            a_call_that_comes_late_closes_nothing_that_was_opened_since,
            open_tables_outlive_their_life_until_the_next_one_has_read_its_log,
            an_ingester_without_a_whole_list_is_asked_for_every_table,
        });
        $crate::contract::contract!(@tests $open, orders {
            orders_grow_over_all_ingesters_and_are_never_given_twice,
            the_last_order_is_above_all_given_before_and_below_all_given_later,
            an_older_life_gets_no_orders,
        });
        $crate::contract::contract!(@tests $open, producers {
            a_producer_is_held_by_the_first_who_claims_it,
            a_released_producer_is_handed_over_with_its_position,
            a_release_from_before_another_claim_is_not_taken,
            two_who_claim_at_once_do_not_both_hold,
            a_drained_ingester_holds_no_producer,
            an_owner_that_started_again_is_asked_in_its_new_life,
            a_dropped_table_has_no_producers,
            unused_producers_are_forgotten_in_steps,
            statements_are_forgotten_before_producers,
        });
        $crate::contract::contract!(@tests $open, statements {
            a_statement_is_begun_once_and_its_outcome_known_to_all,
            a_statement_is_forgotten_long_after_its_ticket_ended,
        });
        $crate::contract::contract!(@tests $open, uploads {
            an_upload_appears_in_one_snapshot,
            times_of_another_column_are_forgotten,
            an_upload_makes_its_table,
            an_upload_ends_only_in_the_table_that_was_looked_at,
            an_aborted_upload_leaves_nothing,
            an_upload_inherits_the_key_of_its_table,
            an_abandoned_upload_expires,
            streams_of_other_uploads_and_tables_are_refused,
        });
        $crate::contract::contract!(@tests $open, logs {
            an_undrained_ingester_needs_the_log_it_wrote_to,
            a_log_that_was_never_ready_can_be_replaced,
            a_drained_ingester_may_have_a_new_log,
            a_retired_ingester_may_have_a_new_log_or_its_old_one,
            a_log_of_another_ingester_is_refused,
            an_old_copy_of_a_log_is_refused,
            a_registration_whose_answer_was_lost_is_repeated,
            a_state_the_catalog_does_not_have_is_refused,
            a_readmitted_ingester_goes_on_with_its_log_and_is_waited_for_until_then,
            a_log_must_reach_to_what_was_reported,
            a_check_tells_the_newest_state_and_fences,
        });
        $crate::contract::contract!(@tests $open, flushes {
            a_flush_adds_files_and_moves_watermarks_in_one_snapshot,
            a_file_comes_back_as_it_was_committed,
            a_path_that_could_not_be_read_again_changes_nothing,
            a_repeated_flush_gets_the_same_answer_and_adds_nothing,
            a_repeat_with_more_files_adds_only_the_new_ones,
            watermarks_and_producers_never_move_backwards,
            a_flush_that_comes_too_late_changes_nothing,
            a_late_repeat_of_a_forgotten_flush_adds_nothing,
            a_flush_to_a_dropped_table_reports_it_and_keeps_the_rest,
            a_live_table_is_not_taken_for_dropped,
            a_flush_to_a_table_the_catalog_never_had_changes_nothing,
            a_path_used_for_two_files_changes_nothing,
            snapshot_ids_grow_in_commit_order_of_two_flushers,
        });
        $crate::contract::contract!(@tests $open, snapshots {
            a_snapshot_holds_the_known_tables_in_the_order_asked,
            every_visible_change_makes_a_new_snapshot,
            snapshots_are_consistent_while_ingesters_commit,
            a_snapshot_of_a_time_range_holds_the_files_that_may_have_such_rows,
            a_snapshot_of_few_files_has_all_or_none,
        });
        $crate::contract::contract!(@tests $open, past {
            a_past_state_is_whole_or_refused,
            a_past_state_has_the_tables_and_schemas_of_then,
            no_state_has_rows_of_columns_that_come_later,
            the_files_of_a_past_state_are_chosen_as_those_of_the_present,
            a_time_is_the_last_state_made_by_then,
            what_history_forgot_can_not_be_read,
            states_are_listed_with_their_tables,
        });
        $crate::contract::contract!(@tests $open, upkeep {
            files_take_the_place_of_others_in_one_snapshot,
            a_repeated_replacement_gets_the_same_answer_and_changes_nothing,
            a_late_repeat_is_known_by_any_output_that_is_left,
            a_file_that_is_no_longer_live_is_not_replaced,
            two_replacements_of_one_file_do_not_both_happen,
            a_replacement_that_comes_too_late_changes_nothing,
            rows_go_by_the_retention_that_holds_when_they_go,
            rows_that_do_not_add_up_change_nothing,
            files_of_a_dropped_table_are_not_replaced,
            live_files_are_found_by_size_and_age,
            tables_with_many_small_files_are_found,
            garbage_waits_its_time_and_is_never_a_live_file,
            files_of_dropped_tables_become_garbage,
            a_path_that_was_given_up_can_not_be_committed,
            unknown_paths_are_told_from_files_and_garbage,
            a_job_has_one_holder_until_its_time_is_over,
            replacements_are_listed_newest_first,
            history_is_forgotten_and_what_is_readable_stays,
        });
    };
    (@tests $open:path, $module:ident { $($test:ident,)+ }) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = $open().await;
                    $crate::contract::$module::$test(std::sync::Arc::clone(&fixture.catalog)).await;
                }
            )+
        }
    };
}
pub(crate) use contract;

pub fn schema(text: &str) -> SchemaBytes {
    SchemaBytes(text.as_bytes().to_vec())
}

pub fn request(name: TableName, if_exists: IfExists) -> CreateTable {
    CreateTable {
        name,
        schema: schema("first schema"),
        options: BTreeMap::from([("time_column".to_owned(), "time".to_owned())]),
        if_exists,
        create_database: false,
        unpublished: None,
        seen: None,
    }
}

pub async fn create(catalog: &Subject, table: &str) -> Table {
    let name = TableName::public("default", table);
    catalog
        .create_table(request(name, IfExists::Fail))
        .await
        .unwrap()
}

pub async fn register(catalog: &Subject, name: &str) -> Ingester {
    let request = life(name, &format!("https://{name}.example:17002"));
    catalog.register_ingester(request).await.unwrap().ingester
}

/// A log whose id follows from `name`.
pub fn log(name: &str) -> LogState {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    LogState {
        id: LogId(Uuid::from_bytes(id)),
        empty: false,
        epoch: Epoch(0),
        seen: None,
    }
}

/// A life of an ingester on the log that belongs to its name.
pub fn life(name: &str, url: &str) -> RegisterIngester {
    RegisterIngester {
        name: name.to_owned(),
        url: url.to_owned(),
        log: log(name),
        opens_tables: true,
    }
}

/// Notes that the log of an ingester is ready, as it does before it acknowledges anything.
pub async fn ready(catalog: &Subject, registration: &Registration) -> SnapshotStamp {
    let check = IngesterCheck {
        ingester: registration.ingester.id,
        epoch: registration.ingester.epoch,
        seen: registration.newest,
    };
    catalog.check_ingester(check).await.unwrap()
}

pub fn file(table: TableId, path: &str, first: u64, last: u64) -> NewFile {
    NewFile {
        table,
        path: path.to_owned(),
        size_bytes: 1000 + last,
        rows: last - first + 1,
        schema_version: SchemaVersion(1),
        first_sequence: SequenceNumber(first),
        last_sequence: SequenceNumber(last),
        time_range_nanos: None,
        sorted: false,
    }
}

/// A flush of some files; each moves its table's watermark to its last sequence.
pub fn flush_of(ingester: &Ingester, files: Vec<NewFile>) -> FlushCommit {
    let watermarks = files
        .iter()
        .map(|file| (file.table, file.last_sequence))
        .collect();
    FlushCommit {
        ingester: ingester.id,
        epoch: ingester.epoch,
        seen: None,
        durable: SequenceNumber(0),
        files,
        watermarks,
        producers: Vec::new(),
        valid_until_millis: None,
        without_files: vec![],
    }
}

pub async fn commit(catalog: &Subject, ingester: &Ingester, file: NewFile) -> FlushCommitted {
    catalog
        .commit_flush(flush_of(ingester, vec![file]))
        .await
        .unwrap()
}

/// The paths of the live files of a table, and its watermarks as plain numbers.
pub async fn content(catalog: &Subject, table: &Table) -> (Vec<String>, Vec<(u64, u64)>) {
    let snapshot = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    let table = &snapshot.tables[0];
    let paths = table
        .files
        .iter()
        .map(|file| file.file.path.clone())
        .collect();
    (
        paths,
        table
            .watermarks
            .iter()
            .map(|(id, sequence)| (id.0, sequence.0))
            .collect(),
    )
}
