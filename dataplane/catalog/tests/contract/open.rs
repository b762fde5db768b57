//! Open tables: which ingesters may have rows of a table that are in no file.

use flightcluster_catalog::{
    CloseTables, Error, Ingester, IngesterId, LogState, OpenTables, RegisterIngester, Table,
    TableId,
};

use super::{Subject, create, life, log, register};

/// A new ingester that keeps a list from the beginning.
async fn new(catalog: &Subject, name: &str) -> Ingester {
    let empty = LogState {
        empty: true,
        ..log(name)
    };
    let request = RegisterIngester {
        log: empty,
        ..life(name, "")
    };
    catalog.register_ingester(request).await.unwrap().ingester
}

async fn open(catalog: &Subject, who: &Ingester, tables: &[TableId], number: u64, are_all: bool) {
    let request = OpenTables {
        ingester: who.id,
        epoch: who.epoch,
        tables: tables.to_vec(),
        number,
        are_all,
        producers: Vec::new(),
    };
    catalog.open_tables(request).await.unwrap();
}

async fn close(catalog: &Subject, who: &Ingester, table: TableId, number: u64) {
    let request = CloseTables {
        ingester: who.id,
        epoch: who.epoch,
        tables: vec![(table, number)],
    };
    catalog.close_tables(request).await.unwrap();
}

/// Whom a query of the table has to ask, as a snapshot and the list say it.
async fn asked(catalog: &Subject, table: &Table) -> Vec<IngesterId> {
    let names = std::slice::from_ref(&table.name);
    let snapshot = catalog.snapshot(names).await.unwrap();
    let ids = snapshot.ingesters.iter().map(|each| each.id);
    let asked: Vec<_> = ids
        .filter(|id| !snapshot.tables[0].closed.contains(id))
        .collect();
    let listed = catalog.ingesters_of(table.id).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|each| each.id).collect();
    assert_eq!(listed, asked);
    asked
}

pub async fn only_ingesters_with_an_open_table_are_asked_for_it(catalog: Subject) {
    let (t, u) = (create(&catalog, "t").await, create(&catalog, "u").await);
    let first = new(&catalog, "ingester-0").await;
    let second = new(&catalog, "ingester-1").await;
    assert_eq!(asked(&catalog, &t).await, []);
    open(&catalog, &first, &[t.id], 1, false).await;
    open(&catalog, &second, &[t.id, u.id], 1, false).await;
    assert_eq!(asked(&catalog, &t).await, [first.id, second.id]);
    assert_eq!(asked(&catalog, &u).await, [second.id]);
    close(&catalog, &second, t.id, 1).await;
    assert_eq!(asked(&catalog, &t).await, [first.id]);
    catalog.drain_ingester(first.id, first.epoch).await.unwrap();
    assert_eq!(asked(&catalog, &t).await, []);
    let again = register(&catalog, "ingester-0").await;
    assert_eq!(asked(&catalog, &t).await, []);
    assert_eq!(asked(&catalog, &u).await, [second.id]);
    open(&catalog, &again, &[u.id], 1, true).await;
    assert_eq!(asked(&catalog, &u).await, [first.id, second.id]);
}

pub async fn a_call_that_comes_late_closes_nothing_that_was_opened_since(catalog: Subject) {
    let t = create(&catalog, "t").await;
    let who = new(&catalog, "ingester-0").await;
    open(&catalog, &who, &[t.id], 1, true).await;
    open(&catalog, &who, &[t.id], 5, false).await;
    close(&catalog, &who, t.id, 4).await;
    assert_eq!(asked(&catalog, &t).await, [who.id]);
    // Nor does an older opening make it look older, or one that said that it was all.
    open(&catalog, &who, &[t.id], 2, false).await;
    close(&catalog, &who, t.id, 4).await;
    open(&catalog, &who, &[], 1, true).await;
    assert_eq!(asked(&catalog, &t).await, [who.id]);
    close(&catalog, &who, t.id, 5).await;
    assert_eq!(asked(&catalog, &t).await, []);
}

pub async fn open_tables_outlive_their_life_until_the_next_one_has_read_its_log(catalog: Subject) {
    let (t, u) = (create(&catalog, "t").await, create(&catalog, "u").await);
    let former = new(&catalog, "ingester-0").await;
    open(&catalog, &former, &[t.id], 1, false).await;
    // Twice: the first one ended before it had read its log.
    register(&catalog, "ingester-0").await;
    let present = register(&catalog, "ingester-0").await;
    assert_eq!(asked(&catalog, &t).await, [present.id]);
    assert_eq!(asked(&catalog, &u).await, []);
    let late = CloseTables {
        ingester: former.id,
        epoch: former.epoch,
        tables: vec![(t.id, 1)],
    };
    let refused = catalog.close_tables(late).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let late = OpenTables {
        ingester: former.id,
        epoch: former.epoch,
        tables: vec![u.id],
        number: 2,
        are_all: false,
        producers: Vec::new(),
    };
    let refused = catalog.open_tables(late).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    open(&catalog, &present, &[u.id], 1, true).await;
    assert_eq!(asked(&catalog, &t).await, []);
    assert_eq!(asked(&catalog, &u).await, [present.id]);
}

pub async fn an_ingester_without_a_whole_list_is_asked_for_every_table(catalog: Subject) {
    let t = create(&catalog, "t").await;
    // Its log has rows nobody knows of.
    let unknown = register(&catalog, "ingester-0").await;
    assert_eq!(asked(&catalog, &t).await, [unknown.id]);
    open(&catalog, &unknown, &[], 1, true).await;
    assert_eq!(asked(&catalog, &t).await, []);
    let older_release = RegisterIngester {
        opens_tables: false,
        ..life("ingester-0", "")
    };
    catalog.register_ingester(older_release).await.unwrap();
    assert_eq!(asked(&catalog, &t).await, [unknown.id]);
    let newer = register(&catalog, "ingester-0").await;
    assert_eq!(asked(&catalog, &t).await, [unknown.id]);
    open(&catalog, &newer, &[], 1, true).await;
    assert_eq!(asked(&catalog, &t).await, []);
    // What comes back after that may have any log.
    catalog.retire_ingester("ingester-0", true).await.unwrap();
    register(&catalog, "ingester-0").await;
    assert_eq!(asked(&catalog, &t).await, [unknown.id]);
}
