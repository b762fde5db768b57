//! Uploads of a history: rows of several streams, through any ingesters, that appear together or never.

use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::{Catalog, TableId, UploadState};
use flightcluster_server::{Ingesters, Uploads};

use crate::client::{Batch, Client};
use crate::history::{Kind, Violation};
use crate::life::Fault;
use crate::shape::{Shape, schema};
use crate::step::End;
use crate::steps::ATTEMPTS;
use crate::world::{Process, World, alive};

/// Longer than any history.
const TTL: Duration = Duration::from_secs(3600);
/// Uploads have numbers as clients, beyond those of all writers.
const FIRST_CLIENT: usize = 1000;

/// An upload as those who send its rows know it.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    client: Client,
    /// Where its rows are until it ends.
    staging: Option<TableId>,
    /// Its end was tried: its rows may be visible at any moment.
    ending: bool,
    finished: bool,
    aborted: bool,
}

fn id(upload: usize) -> String {
    format!("upload{upload}")
}

impl World {
    /// Sends batches of an upload to an ingester, after those it has to repeat.
    pub(crate) async fn send_upload(
        &self,
        node: usize,
        upload: usize,
        (batches, rows, shape): (u8, u8, Shape),
        faults: &[Fault],
    ) {
        let Some(process) = self.running(node) else {
            return;
        };
        let client = FIRST_CLIENT + upload;
        let producer = upload % 2 == 1;
        let all: Vec<Batch> = {
            let mut held = self.uploads[upload].lock();
            if std::mem::replace(&mut held.client.busy, true) {
                return;
            }
            let mut all = std::mem::take(&mut held.client.pending);
            all.extend((0..batches).map(|_| held.client.new_batch(client, producer, rows, shape)));
            all
        };
        if !faults.is_empty() {
            process.life.arm(faults);
        }
        let open = async |shape| {
            let (id, target) = (id(upload), Self::table(self.settings.uploads[upload]));
            let begun = process.catalog.start_upload(&id, &target, TTL);
            begun.await.ok()?;
            let schema = schema(shape);
            let stream = process.ingest.upload_writer(&id, &target, &schema);
            let stream = Arc::new(stream.await.ok()?);
            self.uploads[upload].lock().staging = Some(stream.table().id);
            self.may_finish(upload);
            Some(stream)
        };
        let (mut back, _) = self.send_groups(&process, client, all, open).await;
        if !faults.is_empty() {
            process.life.disarm();
        }
        let mut held = self.uploads[upload].lock();
        held.client.busy = false;
        back.retain(|batch| batch.number.is_some());
        held.client.pending = back;
    }

    /// Ends an upload through a process, which may be one without an ingester.
    pub(crate) async fn end_upload(
        &self,
        node: usize,
        upload: usize,
        end: End,
        faults: &[Fault],
    ) -> Result<(), Violation> {
        let Some(process) = self.running(node) else {
            return Ok(());
        };
        let finished_before = self.settle_upload(upload).await;
        self.uploads[upload].lock().ending |= end != End::Abort;
        self.may_finish(upload);
        if !faults.is_empty() {
            process.life.arm(faults);
        }
        let ended = alive(&process.life, self.end(&process, upload, end)).await;
        if !faults.is_empty() {
            process.life.disarm();
        }
        self.note(format!("upload {upload}: {ended:?}"));
        let answered = matches!(ended, Some(Ok(())));
        if answered && end == End::Abort {
            if finished_before {
                return Err(wrong(
                    Kind::Untrue,
                    upload,
                    "is aborted after it was finished",
                ));
            }
            let mut held = self.uploads[upload].lock();
            held.aborted = true;
            if let Some(staging) = held.staging {
                self.history.lock().never_finishes(staging);
            }
            return Ok(());
        }
        let finished = self.settle_upload(upload).await;
        if answered && !finished {
            return Err(wrong(Kind::Untrue, upload, "is finished and is not"));
        }
        Ok(())
    }

    fn may_finish(&self, upload: usize) {
        let held = self.uploads[upload].lock();
        if let Some(staging) = held.staging.filter(|_| held.ending && !held.aborted) {
            let target = self.settings.uploads[upload];
            self.history.lock().may_finish(staging, target);
        }
    }

    async fn end(&self, process: &Process, upload: usize, end: End) -> Result<(), String> {
        let catalog = Arc::clone(&process.catalog) as Arc<dyn Catalog>;
        let text = |error: &dyn std::fmt::Debug| format!("{error:?}");
        if end == End::Abort {
            let aborted = catalog.abort_upload(&id(upload)).await;
            return aborted.map_err(|error| text(&error));
        }
        let uploads = Uploads {
            catalog: Arc::clone(&catalog),
            ingesters: Arc::new(Ingesters {
                catalog,
                local: (end == End::Finish).then(|| Arc::clone(&process.ingest)),
                peers: Arc::new(self.other_ingesters(&process.life)),
            }),
            ttl: TTL,
        };
        let finished = uploads.finish(&id(upload)).await;
        finished.map(drop).map_err(|failure| text(&failure))
    }

    /// Learns whether an upload is finished, whatever was answered; its rows are promised then.
    async fn settle_upload(&self, upload: usize) -> bool {
        let known = self.truth().upload(&id(upload)).await;
        let mut finished = known.is_ok_and(|known| known.state == UploadState::Finished);
        let staging = {
            let mut held = self.uploads[upload].lock();
            // What was answered counts.
            finished &= !held.aborted;
            let news = finished && !std::mem::replace(&mut held.finished, finished);
            held.staging.filter(|_| news)
        };
        if let Some(staging) = staging {
            let target = Self::table(self.settings.uploads[upload]);
            let target = self.truth().table(&target).await;
            if let Ok(Some(target)) = target {
                self.history.lock().finish(staging, target.id);
            }
        }
        finished
    }

    /// Learns of all uploads, before their tables go.
    pub(crate) async fn settle_uploads(&self) {
        for upload in 0..self.uploads.len() {
            self.settle_upload(upload).await;
        }
    }

    /// Every other upload is finished, by whoever comes first.
    pub(crate) async fn finish_uploads(&self) -> Result<(), Violation> {
        for upload in (0..self.uploads.len()).step_by(2) {
            let mut open = true;
            for _ in 0..ATTEMPTS {
                // A process may still end of a call that was under way before.
                self.start_all(false).await?;
                self.end_upload(0, upload, End::FinishElsewhere, &[])
                    .await?;
                let known = self.truth().upload(&id(upload)).await;
                let ends = |state| matches!(state, UploadState::Open | UploadState::Finishing);
                open = open && known.is_ok_and(|known| ends(known.state));
            }
            if open {
                return Err(wrong(Kind::Stuck, upload, "can't be finished"));
            }
        }
        Ok(())
    }
}

fn wrong(kind: Kind, upload: usize, what: &str) -> Violation {
    Violation {
        kind,
        text: format!("upload {upload} {what}"),
        key: None,
    }
}
