//! Which log an ingester may begin a life with, and which catalog a log may go on with.

use flightcluster_catalog::{
    Epoch, Error, IngesterCheck, IngesterState, LogProblem, LogState, ProducerClaim,
    RegisterIngester, Registration, SequenceNumber, SnapshotId, SnapshotStamp,
};

use super::producers::{claim, claim_of};
use super::{Subject, commit, create, file, flush_of, life, log, ready, register};

/// Registers "ingester-0" with a log.
async fn begin(catalog: &Subject, log: LogState) -> Result<Registration, Error> {
    let request = RegisterIngester {
        log,
        ..life("ingester-0", "")
    };
    catalog.register_ingester(request).await
}

fn problem(result: &Result<Registration, Error>) -> LogProblem {
    match result {
        Err(
            error @ Error::WrongLog {
                ingester, problem, ..
            },
        ) => {
            let text = error.to_string();
            assert!(
                text.contains("catalog retire ingester-0 --accept-loss"),
                "{text}"
            );
            assert_eq!(ingester, "ingester-0");
            *problem
        }
        other => panic!("{other:?}"),
    }
}

fn empty(name: &str) -> LogState {
    LogState {
        empty: true,
        ..log(name)
    }
}

/// "ingester-0" with log "a", ready to write.
async fn ready_with_a(catalog: &Subject) -> Registration {
    let registration = begin(catalog, empty("a")).await.unwrap();
    ready(catalog, &registration).await;
    registration
}

fn a_after(registration: &Registration) -> LogState {
    LogState {
        epoch: registration.ingester.epoch,
        seen: Some(registration.newest),
        ..log("a")
    }
}

pub async fn an_undrained_ingester_needs_the_log_it_wrote_to(catalog: Subject) {
    let first = ready_with_a(&catalog).await;
    let before = catalog.snapshot(&[]).await.unwrap();
    assert_eq!(
        problem(&begin(&catalog, empty("b")).await),
        LogProblem::Missing
    );
    assert_eq!(
        problem(&begin(&catalog, empty("a")).await),
        LogProblem::Missing
    );
    assert_eq!(
        problem(&begin(&catalog, log("b")).await),
        LogProblem::Exchanged
    );
    let after = catalog.snapshot(&[]).await.unwrap();
    assert_eq!(after, before, "a refusal changes nothing");
    let second = begin(&catalog, a_after(&first)).await.unwrap();
    assert_eq!(second.ingester.epoch, Epoch(2));
}

pub async fn a_log_that_was_never_ready_can_be_replaced(catalog: Subject) {
    begin(&catalog, empty("a")).await.unwrap();
    let second = begin(&catalog, empty("b")).await.unwrap();
    ready(&catalog, &second).await;
    assert_eq!(
        problem(&begin(&catalog, empty("a")).await),
        LogProblem::Missing
    );
}

pub async fn a_drained_ingester_may_have_a_new_log(catalog: Subject) {
    let Registration { ingester, .. } = ready_with_a(&catalog).await;
    catalog
        .drain_ingester(ingester.id, ingester.epoch)
        .await
        .unwrap();
    let second = begin(&catalog, empty("b")).await.unwrap();
    assert_eq!(second.ingester.id, ingester.id);
    // Not ready yet: nothing was acknowledged with it.
    begin(&catalog, empty("c")).await.unwrap();
}

pub async fn a_retired_ingester_may_have_a_new_log_or_its_old_one(catalog: Subject) {
    let first = ready_with_a(&catalog).await;
    catalog.retire_ingester("ingester-0", true).await.unwrap();
    let back = begin(&catalog, a_after(&first)).await.unwrap();
    ready(&catalog, &back).await;
    catalog.retire_ingester("ingester-0", true).await.unwrap();
    begin(&catalog, empty("b")).await.unwrap();
}

pub async fn a_log_of_another_ingester_is_refused(catalog: Subject) {
    register(&catalog, "ingester-1").await;
    let stolen = begin(&catalog, log("ingester-1")).await;
    assert_eq!(problem(&stolen), LogProblem::OfAnother);
    assert_eq!(catalog.list_ingesters().await.unwrap().len(), 1);
}

pub async fn an_old_copy_of_a_log_is_refused(catalog: Subject) {
    let first = ready_with_a(&catalog).await;
    let second = begin(&catalog, a_after(&first)).await.unwrap();
    // Not ready: the log does not know of that life.
    let third = begin(&catalog, a_after(&first)).await.unwrap();
    ready(&catalog, &third).await;
    for old in [&first, &second] {
        let refused = begin(&catalog, a_after(old)).await;
        assert_eq!(problem(&refused), LogProblem::Stale);
    }
    begin(&catalog, a_after(&third)).await.unwrap();
}

pub async fn a_registration_whose_answer_was_lost_is_repeated(catalog: Subject) {
    for epoch in 1..4 {
        let registration = begin(&catalog, empty("a")).await.unwrap();
        assert_eq!(registration.ingester.epoch, Epoch(epoch));
    }
}

pub async fn a_state_the_catalog_does_not_have_is_refused(catalog: Subject) {
    let first = ready_with_a(&catalog).await;
    let SnapshotStamp {
        snapshot,
        created_at_millis,
    } = first.newest;
    let newer = SnapshotStamp {
        snapshot: SnapshotId(snapshot.0 + 1),
        created_at_millis,
    };
    let other = SnapshotStamp {
        snapshot,
        created_at_millis: created_at_millis - 1,
    };
    let table = create(&catalog, "t").await;
    for seen in [newer, other] {
        let relied = LogState {
            seen: Some(seen),
            ..a_after(&first)
        };
        let refused = begin(&catalog, relied).await;
        assert!(
            matches!(refused, Err(Error::RolledBack { .. })),
            "{refused:?}"
        );
        let mut flush = flush_of(&first.ingester, vec![file(table.id, "f", 1, 2)]);
        flush.seen = Some(seen);
        let refused = catalog.commit_flush(flush).await;
        assert!(
            matches!(refused, Err(Error::RolledBack { .. })),
            "{refused:?}"
        );
        let (ingester, epoch) = (first.ingester.id, first.ingester.epoch);
        let refused = catalog
            .check_ingester(IngesterCheck {
                ingester,
                epoch,
                seen,
            })
            .await;
        assert!(
            matches!(refused, Err(Error::RolledBack { .. })),
            "{refused:?}"
        );
    }
    let stranger = RegisterIngester {
        log: LogState {
            seen: Some(newer),
            ..log("ingester-9")
        },
        ..life("ingester-9", "")
    };
    let refused = catalog.register_ingester(stranger).await;
    assert!(
        matches!(refused, Err(Error::RolledBack { .. })),
        "{refused:?}"
    );

    catalog.retire_ingester("ingester-0", true).await.unwrap();
    let accepted = LogState {
        seen: Some(newer),
        ..a_after(&first)
    };
    begin(&catalog, accepted).await.unwrap();
}

/// A retired one would not be asked for the rows that it comes back with, and another would take the repeats of
/// its producers.
pub async fn a_readmitted_ingester_goes_on_with_its_log_and_is_waited_for_until_then(
    catalog: Subject,
) {
    let first = ready_with_a(&catalog).await;
    let table = create(&catalog, "t").await;
    claim(&catalog, &first.ingester, &table).await;
    let other = register(&catalog, "ingester-1").await;
    let newer = SnapshotStamp {
        snapshot: SnapshotId(first.newest.snapshot.0 + 1000),
        ..first.newest
    };
    let relied = |registration: &Registration| LogState {
        seen: Some(newer),
        ..a_after(registration)
    };
    let is_refused = |answer: Result<Registration, Error>| {
        assert!(
            matches!(answer, Err(Error::RolledBack { .. })),
            "{answer:?}"
        );
    };
    is_refused(begin(&catalog, relied(&first)).await);
    let unknown = catalog.readmit_ingester("ingester-7").await;
    assert!(matches!(unknown, Err(Error::IngesterNotFound(_))));

    for _ in 0..2 {
        let readmitted = catalog.readmit_ingester("ingester-0").await.unwrap();
        assert_eq!(readmitted.state, IngesterState::Active);
        match catalog.claim_producer(claim_of(&other, table.id)).await {
            Ok(ProducerClaim::Taken { owner, .. }) => assert_eq!(owner.id, first.ingester.id),
            // In a file nobody's list is believed after the refusal.
            Err(Error::Unavailable { .. }) => {}
            held => panic!("{held:?}"),
        }
        let names = std::slice::from_ref(&table.name);
        let asked = catalog.snapshot(names).await.unwrap().ingesters;
        assert!(asked.iter().any(|asked| asked.id == first.ingester.id));
    }
    // Only that: its log is still the one it has to come with.
    let missing = begin(&catalog, empty("b")).await;
    assert_eq!(problem(&missing), LogProblem::Missing);
    let second = begin(&catalog, relied(&first)).await.unwrap();
    // A start that ended before the log was ready is made again.
    let third = begin(&catalog, relied(&first)).await.unwrap();
    assert_eq!(third.ingester.epoch.0, second.ingester.epoch.0 + 1);
    ready(&catalog, &third).await;
    is_refused(begin(&catalog, relied(&third)).await);
}

pub async fn a_log_must_reach_to_what_was_reported(catalog: Subject) {
    let first = ready_with_a(&catalog).await;
    let table = create(&catalog, "t").await;
    commit(&catalog, &first.ingester, file(table.id, "f", 1, 4)).await;
    let registered = begin(&catalog, a_after(&first)).await.unwrap();
    assert_eq!(registered.known, SequenceNumber(4), "what is in files");
    let mut flush = flush_of(&registered.ingester, vec![file(table.id, "g", 5, 5)]);
    flush.durable = SequenceNumber(9);
    let committed = catalog.commit_flush(flush.clone()).await.unwrap();
    let repeated = catalog.commit_flush(flush).await.unwrap();
    assert_eq!(repeated, committed);
    let registered = begin(&catalog, a_after(&first)).await.unwrap();
    assert_eq!(registered.known, SequenceNumber(9), "what was reported");
    assert!(registered.newest.snapshot > committed.snapshot);
    let seen = LogState {
        seen: Some(committed.stamp()),
        ..a_after(&first)
    };
    begin(&catalog, seen).await.unwrap();
}

pub async fn a_check_tells_the_newest_state_and_fences(catalog: Subject) {
    let first = ready_with_a(&catalog).await;
    create(&catalog, "t").await;
    let newest = ready(&catalog, &first).await;
    assert_eq!(newest.snapshot, catalog.snapshot(&[]).await.unwrap().id);
    assert!(newest.snapshot > first.newest.snapshot);
    begin(&catalog, a_after(&first)).await.unwrap();
    let check = IngesterCheck {
        ingester: first.ingester.id,
        epoch: first.ingester.epoch,
        seen: newest,
    };
    let refused = catalog.check_ingester(check).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
}
