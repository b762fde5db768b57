//! The serving side: JSON in, a call of the catalog, JSON out.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::calls::{
    AbortUploadCall, BeginStatementCall, CheckIngesterCall, ClaimProducerCall, CloseTablesCall,
    CommitFlushCall, CondemnPathsCall, CreateDatabaseCall, CreateTableCall, DrainIngesterCall,
    DropTableCall, DueGarbageCall, EndStatementCall, EvolveTableCall, ExpireProducersCall,
    ExpireUploadsCall, FinishUploadCall, ForgetHistoryCall, GarbageDeletedCall, GarbageQueueCall,
    IngestersOfCall, JoinUploadCall, LastOrderCall, LeaseCall, ListDatabasesCall,
    ListIngestersCall, ListReplacementsCall, ListSnapshotsCall, ListTablesCall, LiveFilesCall,
    OpenTablesCall, PastCall, PingCall, PublishTableCall, ReadmitIngesterCall,
    RegisterIngesterCall, ReplaceFilesCall, ResolveAsOfCall, RetireIngesterCall, SealUploadCall,
    SetOptionsCall, SmallFilesCall, SnapshotCall, StartUploadCall, TableCall, TablesByIdCall,
    TakeOrdersCall, TimeCall, UnknownPathsCall, UploadCall,
};
use super::protocol::{Call, PATH_PREFIX, Refusal, VERSION, VERSION_HEADER, chain};
use crate::{Catalog, Error};

/// Largest request. A flush of 10,000 files is about 3 MB.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

type Shared = Arc<dyn Catalog>;

/// Serves a catalog below `/catalog/v1/`.
///
/// Whoever can send a request is trusted: mount it behind mutual TLS only.
pub fn router(catalog: Arc<dyn Catalog>) -> Router {
    let mut router = Router::new();
    router = add::<CreateDatabaseCall>(router);
    router = add::<ListDatabasesCall>(router);
    router = add::<CreateTableCall>(router);
    router = add::<PublishTableCall>(router);
    router = add::<DropTableCall>(router);
    router = add::<SetOptionsCall>(router);
    router = add::<EvolveTableCall>(router);
    router = add::<TableCall>(router);
    router = add::<TablesByIdCall>(router);
    router = add::<ListTablesCall>(router);
    router = add::<SnapshotCall>(router);
    router = add::<ResolveAsOfCall>(router);
    router = add::<PastCall>(router);
    router = add::<ListSnapshotsCall>(router);
    router = add::<RegisterIngesterCall>(router);
    router = add::<CheckIngesterCall>(router);
    router = add::<DrainIngesterCall>(router);
    router = add::<RetireIngesterCall>(router);
    router = add::<ReadmitIngesterCall>(router);
    router = add::<ListIngestersCall>(router);
    router = add::<OpenTablesCall>(router);
    router = add::<CloseTablesCall>(router);
    router = add::<IngestersOfCall>(router);
    router = add::<CommitFlushCall>(router);
    router = add::<TakeOrdersCall>(router);
    router = add::<LastOrderCall>(router);
    router = add::<ClaimProducerCall>(router);
    router = add::<ExpireProducersCall>(router);
    router = add::<ReplaceFilesCall>(router);
    router = add::<LiveFilesCall>(router);
    router = add::<SmallFilesCall>(router);
    router = add::<ListReplacementsCall>(router);
    router = add::<DueGarbageCall>(router);
    router = add::<GarbageDeletedCall>(router);
    router = add::<GarbageQueueCall>(router);
    router = add::<UnknownPathsCall>(router);
    router = add::<CondemnPathsCall>(router);
    router = add::<LeaseCall>(router);
    router = add::<ForgetHistoryCall>(router);
    router = add::<BeginStatementCall>(router);
    router = add::<EndStatementCall>(router);
    router = add::<StartUploadCall>(router);
    router = add::<UploadCall>(router);
    router = add::<JoinUploadCall>(router);
    router = add::<SealUploadCall>(router);
    router = add::<FinishUploadCall>(router);
    router = add::<AbortUploadCall>(router);
    router = add::<ExpireUploadsCall>(router);
    router = add::<TimeCall>(router);
    router = add::<PingCall>(router);
    router
        .route_layer(middleware::from_fn(check_version))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(catalog)
}

fn add<C: Call>(router: Router<Shared>) -> Router<Shared> {
    router.route(&format!("{PATH_PREFIX}{}", C::METHOD), post(serve::<C>))
}

async fn serve<C: Call>(State(catalog): State<Shared>, body: Bytes) -> Response {
    let call: C = match serde_json::from_slice(&body) {
        Ok(call) => call,
        Err(error) => {
            let message = format!("can't read the request of {}: {error}", C::METHOD);
            return refuse(&Refusal::Protocol { message });
        }
    };
    match call.serve(catalog.as_ref()).await {
        Ok(reply) => json(StatusCode::OK, &reply),
        Err(error) => {
            if matches!(error, Error::Store { .. } | Error::Unavailable { .. }) {
                tracing::warn!(method = C::METHOD, error = %chain(&error), "catalog call failed");
            }
            refuse(&Refusal::from(error))
        }
    }
}

/// Refuses peers that speak another version, and names ours in every answer.
async fn check_version(request: Request, next: Next) -> Response {
    let theirs = request.headers().get(VERSION_HEADER);
    let mut response = if theirs.is_some_and(|version| version == VERSION) {
        next.run(request).await
    } else {
        let theirs = theirs
            .and_then(|version| version.to_str().ok())
            .unwrap_or("none");
        refuse(&Refusal::Protocol {
            message: format!(
                "the caller speaks catalog protocol {theirs}, this process speaks {VERSION}: \
                 bring all processes of the cluster to the same release"
            ),
        })
    };
    response
        .headers_mut()
        .insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    response
}

fn refuse(refusal: &Refusal) -> Response {
    json(refusal.status(), refusal)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    match serde_json::to_vec(value) {
        Ok(body) => (status, content_type, body).into_response(),
        Err(error) => {
            tracing::error!(%error, "can't write the answer of a catalog call");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
