//! Deliberately broken builds: each is one of the ports the product stands on, implemented wrongly in
//! the way a defect of the product would show there. Nothing of it is in a shipped crate.

use flightcluster_catalog::{
    Error, FilesReplaced, FlushCommit, LiveFiles, ReplaceFiles, SequenceNumber,
};

use crate::catalog::Line;
use crate::history::Kind;

/// One defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// A sync of the log returns at once and syncs nothing.
    AcknowledgesBeforeSync,
    /// A flush counts as committed, and the log is truncated, before the catalog has it.
    TruncatesBeforeCommit,
    /// A flush says that one row more is in its files than there is.
    WatermarkTooHigh,
    /// A snapshot says that one row less is in its files than there is.
    WatermarkTooLow,
    /// An old life of an ingester may commit.
    NoEpochCheck,
    /// Which batches of a producer are stored is forgotten when the log is.
    ProducersForgotten,
    /// Replay begins one row too early.
    ReplayOffByOne,
    /// A question for rows that have left memory is answered without them.
    TooOldIsEmpty,
    /// An answer that lacks fresh rows does not say of the last ingester that it lacks its rows.
    MarkIncomplete,
    /// Fresh rows are cast to the types that the asker knows.
    CastsBack,
    /// Of fresh rows what is in lists is cast to a narrower type.
    LosesNested,
    /// Files and watermarks of a flush are committed one after the other.
    TwoCommits,
    /// A file counts as stored before the object store has it.
    FileNotDurable,
    /// The catalog forgets producers while they are at work.
    WindowForgotten,
    /// An ingester lets go of a producer without saying how far it came.
    PositionNotHandedOver,
    /// A compaction is committed although somebody else has compacted some of its files.
    CompactsEndedFiles,
    /// An ingester says that it has flushed its rows of an upload, and has not.
    UploadNotFlushed,
    /// An upload that is aborted appears all the same.
    AbortedAppears,
    /// Objects are deleted while files that are live have them.
    DeletesLiveFiles,
    /// A state of the past is answered with the files of today.
    PastIsPresent,
    /// A catalog that starts again lacks what was committed last.
    CatalogForgets,
    /// Each process leases a block of order numbers and gives them out by itself.
    OrdersInBlocks,
    /// Each process adds what its clock says to the order numbers.
    OrdersByClock,
    /// Files say that they have no time in common with any other.
    FilesLookApart,
    /// Files of tables with a key say that they are sorted, and are not.
    FilesUnsorted,
    /// A compaction keeps the older rows of keys that are in several files.
    CompactsToOlder,
    /// A deletion also judges rows of writes that began after it.
    DeletesWhatCameLater,
    /// Ingesters do not say of which tables they have rows in no file.
    OpensNothing,
    /// A deletion does without an ingester that is down, whatever it may have.
    DeletesWithoutTheLost,
}

impl Broken {
    /// Those that histories of keys catch.
    pub(crate) const OF_KEYS: [Self; 8] = [
        Self::OrdersInBlocks,
        Self::OrdersByClock,
        Self::FilesLookApart,
        Self::FilesUnsorted,
        Self::CompactsToOlder,
        Self::DeletesWhatCameLater,
        Self::OpensNothing,
        Self::DeletesWithoutTheLost,
    ];

    /// Those that histories of rows catch.
    pub(crate) const OF_ROWS: [Self; 22] = [
        Self::AcknowledgesBeforeSync,
        Self::TruncatesBeforeCommit,
        Self::WatermarkTooHigh,
        Self::WatermarkTooLow,
        Self::NoEpochCheck,
        Self::ProducersForgotten,
        Self::ReplayOffByOne,
        Self::TooOldIsEmpty,
        Self::CastsBack,
        Self::LosesNested,
        Self::MarkIncomplete,
        Self::TwoCommits,
        Self::FileNotDurable,
        Self::WindowForgotten,
        Self::PositionNotHandedOver,
        Self::CompactsEndedFiles,
        Self::UploadNotFlushed,
        Self::AbortedAppears,
        Self::DeletesLiveFiles,
        Self::PastIsPresent,
        Self::CatalogForgets,
        Self::OpensNothing,
    ];

    /// The broken promises of rows by which it counts as caught: what a client would notice of this defect.
    /// Any other one may be an accident, such as a log that can't be opened.
    pub(crate) fn shows_as(self) -> &'static [Kind] {
        match self {
            Self::AcknowledgesBeforeSync
            | Self::TruncatesBeforeCommit
            | Self::WatermarkTooHigh
            | Self::TooOldIsEmpty
            | Self::MarkIncomplete
            | Self::UploadNotFlushed
            | Self::OpensNothing => &[Kind::Lost, Kind::Unseen],
            Self::WatermarkTooLow
            | Self::ProducersForgotten
            | Self::ReplayOffByOne
            | Self::TwoCommits
            | Self::WindowForgotten
            | Self::PositionNotHandedOver
            | Self::CompactsEndedFiles => &[Kind::Doubled],
            Self::NoEpochCheck => &[Kind::Lost, Kind::Unseen, Kind::Doubled],
            Self::CastsBack | Self::LosesNested | Self::PastIsPresent => &[Kind::Altered],
            Self::AbortedAppears => &[Kind::Invented, Kind::Untrue],
            // A file that is not there is an error of each query that needs it, and a log that knows more
            // than the catalog refuses to open: never a short answer.
            Self::FileNotDurable | Self::DeletesLiveFiles | Self::CatalogForgets => &[Kind::Stuck],
            // Of keys; the other checker has no kinds.
            Self::OrdersInBlocks
            | Self::OrdersByClock
            | Self::FilesLookApart
            | Self::FilesUnsorted
            | Self::CompactsToOlder
            | Self::DeletesWhatCameLater
            | Self::DeletesWithoutTheLost => &[],
        }
    }

    /// The one with this name, of either list.
    pub(crate) fn of(name: &str) -> Option<Self> {
        { Self::OF_ROWS.into_iter() }
            .chain(Self::OF_KEYS)
            .find(|each| format!("{each:?}") == name)
    }
}

impl Line {
    /// What a catalog does that ends the inputs that are live, and adds the outputs.
    pub(crate) async fn replace_what_is_left(
        &self,
        request: ReplaceFiles,
    ) -> Result<FilesReplaced, Error> {
        let all = LiveFiles {
            table: request.table,
            below_bytes: None,
            before_nanos: None,
            limit: u32::MAX,
        };
        let mut live = self.inner.live_files(all).await?;
        live.retain(|file| request.inputs.contains(&file.id));
        let ended = ReplaceFiles {
            inputs: live.iter().map(|file| file.id).collect(),
            outputs: vec![],
            removed_rows: live.iter().map(|file| file.file.rows).sum(),
            ..request.clone()
        };
        self.inner.replace_files(ended).await?;
        let all = self.inner.list_ingesters().await?;
        let commit = FlushCommit {
            seen: None,
            durable: SequenceNumber(0),
            ingester: all[0].id,
            epoch: all[0].epoch,
            files: request.outputs,
            watermarks: vec![],
            producers: vec![],
            valid_until_millis: None,
            without_files: vec![],
        };
        let snapshot = self.inner.commit_flush(commit).await?.snapshot;
        Ok(FilesReplaced { snapshot })
    }
}
