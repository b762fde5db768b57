//! The methods of the catalog as messages.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::protocol::Call;
use crate::{
    AsOf, BeginStatement, Catalog, CatalogTime, ClaimProducer, CloseTables, CreateTable, Database,
    Epoch, Error, File, FileChoice, FilesReplaced, FinishUpload, FlushCommit, FlushCommitted,
    Garbage, GarbageQueue, HistoryForgotten, IfExists, Ingester, IngesterCheck, IngesterId,
    JoinUpload, Lease, LiveFiles, OpenTables, ProducerClaim, ProducerExpiry, RegisterIngester,
    Registration, ReplaceFiles, Replacement, SchemaBytes, SchemaVersion, Seen, SetOptions,
    SmallFiles, Snapshot, SnapshotId, SnapshotRecord, SnapshotRequest, SnapshotStamp,
    StatementProgress, Table, TableId, TableName, Upload,
};

/// Declares a message and what it calls. `repeatable` as for [`Call::REPEATABLE`].
macro_rules! call {
    ($name:ident { $($(#[$meta:meta])* $field:ident: $type:ty),* } $method:literal -> $reply:ty,
     repeatable: $repeatable:literal, |$call:ident, $catalog:ident| $serve:expr) => {
        #[derive(Debug, Serialize, Deserialize)]
        pub(super) struct $name { $($(#[$meta])* pub(super) $field: $type),* }

        #[async_trait]
        impl Call for $name {
            type Reply = $reply;
            const METHOD: &'static str = $method;
            const REPEATABLE: bool = $repeatable;

            async fn serve(self, $catalog: &dyn Catalog) -> Result<$reply, Error> {
                let $call = self;
                $serve.await
            }
        }
    };
}

call!(CreateDatabaseCall { name: String, if_not_exists: bool }
    "create_database" -> Database, repeatable: false,
    |call, catalog| catalog.create_database(&call.name, call.if_not_exists));

call!(ListDatabasesCall {} "list_databases" -> Vec<Database>, repeatable: true,
    |_call, catalog| catalog.list_databases());

call!(CreateTableCall { request: CreateTable } "create_table" -> Table, repeatable: false,
    |call, catalog| catalog.create_table(call.request));

// A repeat finds the table published. Older peers do not send `seen`, and replace any table.
call!(PublishTableCall {
    table: TableId, name: TableName, if_exists: IfExists, #[serde(default)] seen: Option<Seen>
}
"publish_table" -> Table, repeatable: true,
|call, catalog| catalog.publish_table(call.table, &call.name, call.if_exists, call.seen));

// A repeat is harmless by `seen`, but an older peer drops whatever has the name.
call!(DropTableCall { name: TableName, if_exists: bool, #[serde(default)] seen: Option<Seen> }
    "drop_table" -> Option<Table>, repeatable: false,
    |call, catalog| catalog.drop_table(&call.name, call.if_exists, call.seen));

// A repeat does nothing by `id`. Older peers send neither that nor `seen`: a late repeat of theirs sets what it says.
call!(SetOptionsCall { request: SetOptions } "set_options" -> (), repeatable: true,
    |call, catalog| catalog.set_options(call.request));

call!(EvolveTableCall { table: TableId, from: SchemaVersion, schema: SchemaBytes }
    "evolve_table" -> Table, repeatable: false,
    |call, catalog| catalog.evolve_table(call.table, call.from, call.schema));

call!(TableCall { name: TableName } "table" -> Option<Table>, repeatable: true,
    |call, catalog| catalog.table(&call.name));

call!(TablesByIdCall { ids: Vec<TableId> } "tables_by_id" -> Vec<Table>, repeatable: true,
    |call, catalog| catalog.tables_by_id(&call.ids));

call!(ListTablesCall { database: Option<String> }
    "list_tables" -> Vec<Table>, repeatable: true,
    |call, catalog| catalog.list_tables(call.database.as_deref()));

// `files` goes with `tables`. Older peers do not send it, and give all files when it is sent.
call!(SnapshotCall { tables: Vec<TableName>, #[serde(default)] files: Vec<FileChoice> }
"snapshot" -> Snapshot, repeatable: true,
|call, catalog| {
    let choices = call.files.into_iter().chain(std::iter::repeat(FileChoice::All));
    let tables = call.tables.into_iter().zip(choices).collect();
    catalog.read_snapshot(SnapshotRequest { tables })
});

call!(ResolveAsOfCall { as_of: AsOf } "resolve_as_of" -> SnapshotStamp, repeatable: true,
    |call, catalog| catalog.resolve_as_of(call.as_of));

// Not a part of `snapshot`: an older peer would answer with the present.
call!(PastCall { snapshot: SnapshotId, tables: Vec<(TableName, FileChoice)> }
    "past" -> Snapshot, repeatable: true,
    |call, catalog| catalog.read_past(call.snapshot, SnapshotRequest { tables: call.tables }));

call!(ListSnapshotsCall { limit: u32 }
    "list_snapshots" -> Vec<SnapshotRecord>, repeatable: true,
    |call, catalog| catalog.list_snapshots(call.limit));

// A repeat would begin another life and is harmless, but the caller decides about its lives.
call!(RegisterIngesterCall { request: RegisterIngester }
    "register_ingester" -> Registration, repeatable: false,
    |call, catalog| catalog.register_ingester(call.request));

call!(CheckIngesterCall { check: IngesterCheck }
    "check_ingester" -> SnapshotStamp, repeatable: true,
    |call, catalog| catalog.check_ingester(call.check));

call!(DrainIngesterCall { ingester: IngesterId, epoch: Epoch }
    "drain_ingester" -> (), repeatable: true,
    |call, catalog| catalog.drain_ingester(call.ingester, call.epoch));

// By name: a repeat would retire the life that began after the lost answer.
call!(RetireIngesterCall { name: String, accept_loss: bool }
    "retire_ingester" -> Ingester, repeatable: false,
    |call, catalog| catalog.retire_ingester(&call.name, call.accept_loss));

call!(ReadmitIngesterCall { name: String } "readmit_ingester" -> Ingester, repeatable: true,
    |call, catalog| catalog.readmit_ingester(&call.name));

call!(ListIngestersCall {} "list_ingesters" -> Vec<Ingester>, repeatable: true,
    |_call, catalog| catalog.list_ingesters());

// A repeat opens or closes the same.
call!(OpenTablesCall { request: OpenTables } "open_tables" -> (), repeatable: true,
    |call, catalog| catalog.open_tables(call.request));

call!(CloseTablesCall { request: CloseTables } "close_tables" -> (), repeatable: true,
    |call, catalog| catalog.close_tables(call.request));

call!(IngestersOfCall { table: TableId } "ingesters_of" -> Vec<Ingester>, repeatable: true,
    |call, catalog| catalog.ingesters_of(call.table));

// The catalog recognises a repeated commit.
call!(CommitFlushCall { commit: FlushCommit }
    "commit_flush" -> FlushCommitted, repeatable: true,
    |call, catalog| catalog.commit_flush(call.commit));

// Numbers whose answer was lost are never used.
call!(TakeOrdersCall { ingester: IngesterId, epoch: Epoch, rows: u64 }
    "take_orders" -> i64, repeatable: true,
    |call, catalog| catalog.take_orders(call.ingester, call.epoch, call.rows));

call!(LastOrderCall {} "last_order" -> i64, repeatable: true, |_call, catalog| catalog.last_order());

// Every claim may be made again.
call!(ClaimProducerCall { request: ClaimProducer }
    "claim_producer" -> ProducerClaim, repeatable: true,
    |call, catalog| catalog.claim_producer(call.request));

call!(ExpireProducersCall { expiry: ProducerExpiry } "expire_producers" -> u64, repeatable: true,
    |call, catalog| catalog.expire_producers(call.expiry));

// The catalog recognises a repeated replacement.
call!(ReplaceFilesCall { request: ReplaceFiles }
    "replace_files" -> FilesReplaced, repeatable: true,
    |call, catalog| catalog.replace_files(call.request));

call!(LiveFilesCall { which: LiveFiles } "live_files" -> Vec<File>, repeatable: true,
    |call, catalog| catalog.live_files(call.which));

call!(SmallFilesCall { below_bytes: u64, min_files: u32 }
    "small_files" -> Vec<SmallFiles>, repeatable: true,
    |call, catalog| catalog.small_files(call.below_bytes, call.min_files));

call!(ListReplacementsCall { database: String, limit: u32 }
    "list_replacements" -> Vec<Replacement>, repeatable: true,
    |call, catalog| catalog.list_replacements(&call.database, call.limit));

call!(DueGarbageCall { grace: Duration, limit: u32 }
    "due_garbage" -> Vec<Garbage>, repeatable: true,
    |call, catalog| catalog.due_garbage(call.grace, call.limit));

call!(GarbageDeletedCall { paths: Vec<String> } "garbage_deleted" -> (), repeatable: true,
    |call, catalog| catalog.garbage_deleted(&call.paths));

call!(GarbageQueueCall {} "garbage_queue" -> GarbageQueue, repeatable: true,
    |_call, catalog| catalog.garbage_queue());

call!(UnknownPathsCall { paths: Vec<String> } "unknown_paths" -> Vec<String>, repeatable: true,
    |call, catalog| catalog.unknown_paths(&call.paths));

call!(CondemnPathsCall { paths: Vec<String> } "condemn_paths" -> u64, repeatable: true,
    |call, catalog| catalog.condemn_paths(&call.paths));

// A holder that asks again keeps what it has.
call!(LeaseCall { lease: Lease } "lease" -> bool, repeatable: true,
    |call, catalog| catalog.lease(call.lease));

call!(ForgetHistoryCall { window: Duration }
    "forget_history" -> HistoryForgotten, repeatable: true,
    |call, catalog| catalog.forget_history(call.window));

// A repeat of the request is recognised.
call!(BeginStatementCall { request: BeginStatement }
    "begin_statement" -> StatementProgress, repeatable: true,
    |call, catalog| catalog.begin_statement(call.request));

call!(EndStatementCall { id: String, rows: u64 } "end_statement" -> (), repeatable: true,
    |call, catalog| catalog.end_statement(&call.id, call.rows));

// An upload that was begun is found.
call!(StartUploadCall { id: String, target: TableName, ttl: Duration }
    "start_upload" -> Upload, repeatable: true,
    |call, catalog| catalog.start_upload(&call.id, &call.target, call.ttl));

call!(UploadCall { id: String } "upload" -> Upload, repeatable: true,
    |call, catalog| catalog.upload(&call.id));

call!(JoinUploadCall { request: JoinUpload } "join_upload" -> Table, repeatable: true,
    |call, catalog| catalog.join_upload(call.request));

call!(SealUploadCall { id: String } "seal_upload" -> Upload, repeatable: true,
    |call, catalog| catalog.seal_upload(&call.id));

call!(FinishUploadCall { request: FinishUpload } "finish_upload" -> Upload, repeatable: true,
    |call, catalog| catalog.finish_upload(call.request));

call!(AbortUploadCall { id: String } "abort_upload" -> (), repeatable: true,
    |call, catalog| catalog.abort_upload(&call.id));

call!(ExpireUploadsCall {} "expire_uploads" -> u64, repeatable: true,
    |_call, catalog| catalog.expire_uploads());

call!(TimeCall {} "time" -> CatalogTime, repeatable: true, |_call, catalog| catalog.time());

call!(PingCall {} "ping" -> (), repeatable: true, |_call, catalog| catalog.ping());
