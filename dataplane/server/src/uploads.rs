//! Uploads of several streams: the actions that begin and end them, and the way to the ingesters that
//! have rows of one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flightcluster_auth::Action;
use flightcluster_catalog::{
    self as catalog, Catalog, FinishUpload, TableName, Upload, UploadState,
};
use flightcluster_ingest::upload::{has_same_times, merged};
use flightcluster_wire::DEFAULT_SCHEMA;
use flightcluster_wire::action::{StartUploadRequest, UploadRequest};
use serde::Serialize;

use crate::caller::Caller;
use crate::ingesters::Ingesters;
use crate::service::FlightServer;
use crate::status::{ErrorCode, Failure};

/// Attempts to end an upload in a table that others change at the same time.
const ATTEMPTS: usize = 16;

/// Ends uploads, wherever their rows are.
#[derive(Debug)]
pub struct Uploads {
    /// Where they are kept.
    pub catalog: Arc<dyn Catalog>,
    /// Who may have rows of one.
    pub ingesters: Arc<Ingesters>,
    /// Time an upload may rest.
    pub ttl: Duration,
}

/// What an action about an upload answers.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    upload: &'a str,
    state: UploadState,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
}

impl Uploads {
    /// Makes the rows of an upload visible, all at once.
    ///
    /// - Errors: nothing is visible, or, after a lost answer, everything.
    /// - Retry: safe, a repeat of a finished one gets the same answer.
    /// - Cancellation: as after an error.
    pub async fn finish(&self, id: &str) -> Result<Upload, Failure> {
        for _ in 0..ATTEMPTS {
            let upload = self.catalog.seal_upload(id).await?;
            if upload.state == UploadState::Finished {
                return Ok(upload);
            }
            if let Some(staging) = &upload.staging {
                for ingester in &upload.ingesters {
                    self.ingesters.flush_upload(ingester, staging.id).await?;
                }
            }
            match self
                .catalog
                .finish_upload(self.end_of(&upload).await?)
                .await
            {
                Err(catalog::Error::SchemaChanged { .. }) => {}
                other => return Ok(other?),
            }
        }
        let message = "the table of the upload changes all the time; finish it again";
        Err(Failure::new(ErrorCode::SchemaChanged, message))
    }

    /// How the upload ends in its table as that is now.
    async fn end_of(&self, upload: &Upload) -> Result<FinishUpload, Failure> {
        let target = self.catalog.table(&upload.target).await?;
        let (schema, forget_times) = match (&target, &upload.staging) {
            (Some(target), Some(staging)) => {
                let schema = merged(
                    &upload.target,
                    &target.schema,
                    &target.options,
                    &staging.schema,
                )?;
                let becomes = schema.as_ref().unwrap_or(&target.schema);
                let same = has_same_times(becomes, &staging.schema)?;
                (schema, !same)
            }
            _ => (None, false),
        };
        Ok(FinishUpload {
            id: upload.id.clone(),
            staging_version: upload
                .staging
                .as_ref()
                .map(|table| table.schema_version)
                .unwrap_or_default(),
            target: target.map(|table| (table.id, table.schema_version)),
            schema,
            forget_times,
        })
    }
}

impl FlightServer {
    /// Begins an upload; the answer has its id.
    pub(crate) async fn start_upload(
        &self,
        caller: &Caller,
        request: StartUploadRequest,
    ) -> Result<Bytes, Failure> {
        let database = caller.database(request.database.as_deref());
        caller.authorize(Action::Write, &database)?;
        let target = TableName {
            database,
            schema: DEFAULT_SCHEMA.to_owned(),
            table: request.table,
        };
        let uploads = &self.backends()?.uploads;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let upload = uploads
            .catalog
            .start_upload(&id, &target, uploads.ttl)
            .await?;
        answer(&id, upload.state, None)
    }

    /// Makes the rows of an upload visible, all at once.
    pub(crate) async fn finish_upload(
        &self,
        caller: &Caller,
        request: UploadRequest,
    ) -> Result<Bytes, Failure> {
        let uploads = self.authorized(caller, &request).await?;
        let upload = uploads.finish(&request.upload).await?;
        answer(&upload.id, upload.state, Some(upload.rows))
    }

    /// Ends an upload without its rows.
    pub(crate) async fn abort_upload(
        &self,
        caller: &Caller,
        request: UploadRequest,
    ) -> Result<Bytes, Failure> {
        let uploads = self.authorized(caller, &request).await?;
        uploads.catalog.abort_upload(&request.upload).await?;
        answer(&request.upload, UploadState::Aborted, None)
    }

    async fn authorized(
        &self,
        caller: &Caller,
        request: &UploadRequest,
    ) -> Result<&Uploads, Failure> {
        let uploads = &self.backends()?.uploads;
        let upload = uploads.catalog.upload(&request.upload).await?;
        caller.authorize(Action::Write, &upload.target.database)?;
        Ok(uploads)
    }
}

fn answer(upload: &str, state: UploadState, rows: Option<u64>) -> Result<Bytes, Failure> {
    let answer = Answer {
        upload,
        state,
        rows,
    };
    serde_json::to_vec(&answer)
        .map(Bytes::from)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("answer: {error}")))
}
