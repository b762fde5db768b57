//! Registration, fencing and draining.

use flightcluster_catalog::{Epoch, Error, IfExists, IngesterId, IngesterState, SequenceNumber};

use super::{Subject, commit, create, file, flush_of, life, register, request};

pub async fn an_ingester_keeps_its_id_and_gets_the_next_epoch(catalog: Subject) {
    let begin = |name: &str, url: &str| {
        let (catalog, request) = (Subject::clone(&catalog), life(name, url));
        async move { catalog.register_ingester(request).await.unwrap() }
    };
    let first = begin("ingester-0", "https://a:17002").await;
    let other = begin("ingester-1", "").await;
    let second = begin("ingester-0", "https://b:17002").await;
    assert_eq!(first.ingester.epoch, Epoch(1));
    assert_eq!(second.ingester.epoch, Epoch(2));
    assert_eq!(second.ingester.id, first.ingester.id);
    assert_eq!(second.ingester.url, "https://b:17002");
    assert_ne!(other.ingester.id, first.ingester.id);
    let listed = catalog.list_ingesters().await.unwrap();
    assert_eq!(listed, [second.ingester, other.ingester]);
}

pub async fn a_stale_or_unknown_ingester_is_fenced(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let stale = register(&catalog, "ingester-0").await;
    let current = register(&catalog, "ingester-0").await;

    let refused = catalog
        .commit_flush(flush_of(&stale, vec![file(table.id, "f", 1, 2)]))
        .await;
    assert!(
        matches!(
            refused,
            Err(Error::Fenced { ingester, epoch: Epoch(1), current: Epoch(2) })
                if ingester == stale.id
        ),
        "{refused:?}"
    );
    let refused = catalog.drain_ingester(stale.id, stale.epoch).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })));
    let unknown = catalog.drain_ingester(IngesterId(99), Epoch(1)).await;
    assert!(matches!(
        unknown,
        Err(Error::Fenced {
            current: Epoch(0),
            ..
        })
    ));

    let snapshot = catalog.snapshot(&[table.name]).await.unwrap();
    assert!(snapshot.tables[0].files.is_empty());
    assert_eq!(snapshot.ingesters, [current]);
}

pub async fn a_drained_ingester_is_not_asked_until_it_registers_again(catalog: Subject) {
    let ingester = register(&catalog, "ingester-0").await;
    let asked = catalog.snapshot(&[]).await.unwrap().ingesters;
    assert_eq!(asked, std::slice::from_ref(&ingester));

    catalog
        .drain_ingester(ingester.id, ingester.epoch)
        .await
        .unwrap();
    catalog
        .drain_ingester(ingester.id, ingester.epoch)
        .await
        .unwrap();
    assert!(catalog.snapshot(&[]).await.unwrap().ingesters.is_empty());
    assert_eq!(
        catalog.list_ingesters().await.unwrap()[0].state,
        IngesterState::Drained
    );

    let back = register(&catalog, "ingester-0").await;
    assert_eq!(back.state, IngesterState::Active);
    assert_eq!(catalog.snapshot(&[]).await.unwrap().ingesters, [back]);
}

pub async fn registering_returns_watermarks(catalog: Subject) {
    let (kept, dropped) = (
        create(&catalog, "kept").await,
        create(&catalog, "dropped").await,
    );
    let ingester = register(&catalog, "ingester-0").await;
    let other = register(&catalog, "ingester-1").await;
    commit(&catalog, &other, file(kept.id, "other", 1, 99)).await;
    let flush = flush_of(
        &ingester,
        vec![file(kept.id, "a", 1, 4), file(dropped.id, "b", 5, 6)],
    );
    catalog.commit_flush(flush).await.unwrap();
    catalog
        .drop_table(&dropped.name, false, None)
        .await
        .unwrap();

    let registration = catalog
        .register_ingester(life("ingester-0", ""))
        .await
        .unwrap();
    assert_eq!(registration.watermarks, [(kept.id, SequenceNumber(4))]);

    catalog
        .create_table(request(kept.name, IfExists::Replace))
        .await
        .unwrap();
    let registration = catalog
        .register_ingester(life("ingester-0", ""))
        .await
        .unwrap();
    assert!(registration.watermarks.is_empty());
}

pub async fn a_retired_ingester_is_not_asked_and_its_process_is_fenced(catalog: Subject) {
    let ingester = register(&catalog, "ingester-0").await;
    catalog
        .drain_ingester(ingester.id, ingester.epoch)
        .await
        .unwrap();
    let retired = catalog.retire_ingester("ingester-0", false).await.unwrap();
    assert_eq!(retired.state, IngesterState::Retired);
    assert_eq!(retired.epoch, Epoch(2));
    assert!(catalog.snapshot(&[]).await.unwrap().ingesters.is_empty());
    let stale = catalog.drain_ingester(ingester.id, ingester.epoch).await;
    assert!(matches!(stale, Err(Error::Fenced { .. })), "{stale:?}");
    let repeated = catalog.retire_ingester("ingester-0", false).await.unwrap();
    assert_eq!(repeated, retired);

    let back = register(&catalog, "ingester-0").await;
    assert_eq!((back.id, back.epoch), (ingester.id, Epoch(3)));
    assert_eq!(catalog.snapshot(&[]).await.unwrap().ingesters, [back]);
}

pub async fn retiring_may_lose_rows_only_when_that_is_accepted(catalog: Subject) {
    let unknown = catalog.retire_ingester("ingester-0", true).await;
    assert!(
        matches!(&unknown, Err(Error::IngesterNotFound(name)) if name == "ingester-0"),
        "{unknown:?}"
    );
    let ingester = register(&catalog, "ingester-0").await;
    let refused = catalog.retire_ingester("ingester-0", false).await;
    assert!(
        matches!(&refused, Err(Error::NotDrained(name)) if name == "ingester-0"),
        "{refused:?}"
    );
    assert_eq!(catalog.snapshot(&[]).await.unwrap().ingesters, [ingester]);
    catalog.retire_ingester("ingester-0", true).await.unwrap();
    assert!(catalog.snapshot(&[]).await.unwrap().ingesters.is_empty());
}
