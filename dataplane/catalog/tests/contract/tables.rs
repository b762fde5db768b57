//! The life of tables.

use std::sync::Arc;

use flightcluster_catalog::{
    CreateTable, Error, IfExists, OptionsOf, SchemaVersion, Seen, SetOptions, Table, TableId,
    TableName, UNPUBLISHED_SCHEMA,
};

use super::{Subject, commit, content, create, file, register, request, schema};

pub async fn a_created_table_is_found_by_name_and_by_id(catalog: Subject) {
    let table = create(&catalog, "Flüge").await;
    assert_eq!(table.schema_version, SchemaVersion(1));
    assert_eq!(table.schema, schema("first schema"));
    assert_eq!(table.options["time_column"], "time");
    assert_eq!(
        catalog.table(&table.name).await.unwrap().as_ref(),
        Some(&table)
    );
    // The name is case-sensitive.
    assert_eq!(
        catalog
            .table(&TableName::public("default", "flüge"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        catalog
            .table(&TableName::public("nowhere", "Flüge"))
            .await
            .unwrap(),
        None
    );
    let other = create(&catalog, "other").await;
    let found = catalog
        .tables_by_id(&[other.id, TableId(999), table.id])
        .await
        .unwrap();
    assert_eq!(found, [other, table]);
}

pub async fn an_existing_table_is_refused_kept_or_replaced(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let again = catalog
        .create_table(request(table.name.clone(), IfExists::Fail))
        .await;
    assert!(matches!(again, Err(Error::TableExists(name)) if name == "default.public.t"));

    let mut other = request(table.name.clone(), IfExists::Keep);
    other.schema = schema("another schema");
    assert_eq!(catalog.create_table(other.clone()).await.unwrap(), table);

    other.if_exists = IfExists::Replace;
    let replaced = catalog.create_table(other).await.unwrap();
    assert_ne!(replaced.id, table.id);
    assert_eq!(replaced.schema, schema("another schema"));
    assert_eq!(
        catalog
            .tables_by_id(&[table.id, replaced.id])
            .await
            .unwrap(),
        [replaced]
    );
}

pub async fn replacing_a_table_is_one_snapshot(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(table.id, "one.parquet", 1, 5)).await;
    let names = [table.name.clone()];
    let before = catalog.snapshot(&names).await.unwrap();

    let replaced = catalog
        .create_table(request(table.name, IfExists::Replace))
        .await
        .unwrap();

    let after = catalog.snapshot(&names).await.unwrap();
    assert_eq!(after.id.0, before.id.0 + 1);
    assert_eq!(after.tables[0].table, replaced);
    assert!(after.tables[0].files.is_empty());
    assert!(after.tables[0].watermarks.is_empty());
    assert_eq!(before.tables[0].files.len(), 1);
}

pub async fn a_missing_database_is_created_only_when_asked(catalog: Subject) {
    let mut wanted = request(TableName::public("new", "t"), IfExists::Fail);
    let refused = catalog.create_table(wanted.clone()).await;
    assert!(matches!(refused, Err(Error::DatabaseNotFound(name)) if name == "new"));
    wanted.create_database = true;
    let table = catalog.create_table(wanted).await.unwrap();
    assert_eq!(table.name.database, "new");
    assert_eq!(catalog.list_databases().await.unwrap().len(), 2);
}

pub async fn a_dropped_table_is_gone_and_its_name_is_free(catalog: Subject) {
    let table = create(&catalog, "t").await;
    assert_eq!(
        catalog
            .drop_table(&table.name, false, None)
            .await
            .unwrap()
            .as_ref(),
        Some(&table)
    );
    assert_eq!(catalog.table(&table.name).await.unwrap(), None);
    assert!(catalog.tables_by_id(&[table.id]).await.unwrap().is_empty());
    assert!(catalog.list_tables(None).await.unwrap().is_empty());

    assert_eq!(
        catalog.drop_table(&table.name, true, None).await.unwrap(),
        None
    );
    let again = catalog.drop_table(&table.name, false, None).await;
    assert!(matches!(again, Err(Error::TableNotFound(name)) if name == "default.public.t"));
    let nowhere = TableName::public("nowhere", "t");
    let elsewhere = catalog.drop_table(&nowhere, false, None).await;
    assert!(matches!(elsewhere, Err(Error::DatabaseNotFound(name)) if name == "nowhere"));
    assert_eq!(
        catalog.drop_table(&nowhere, true, None).await.unwrap(),
        None
    );

    let next = create(&catalog, "t").await;
    assert_ne!(next.id, table.id);
    assert_eq!(content(&catalog, &next).await, (vec![], vec![]));
}

pub async fn a_drop_that_comes_late_ends_no_later_table_of_the_name(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let seen = Some(Seen::Table(table.id));
    let dropped = catalog.drop_table(&table.name, false, seen).await.unwrap();
    assert_eq!(dropped.as_ref(), Some(&table));
    // The same again, as after a lost answer: it is done.
    for if_exists in [false, true] {
        let again = catalog.drop_table(&table.name, if_exists, seen).await;
        assert_eq!(again.unwrap(), None);
    }

    let next = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(next.id, "one.parquet", 1, 5)).await;
    for if_exists in [false, true] {
        let late = catalog.drop_table(&table.name, if_exists, seen).await;
        assert_eq!(late.unwrap(), None);
    }
    // Whoever saw no table drops none.
    let nothing = Some(Seen::Nothing);
    let late = catalog.drop_table(&table.name, true, nothing).await;
    assert_eq!(late.unwrap(), None);
    let late = catalog.drop_table(&table.name, false, nothing).await;
    assert!(matches!(late, Err(Error::TableNotFound(name)) if name == "default.public.t"));
    assert_eq!(
        catalog.table(&table.name).await.unwrap().as_ref(),
        Some(&next)
    );
    assert_eq!(content(&catalog, &next).await.0, ["one.parquet"]);
}

pub async fn only_the_table_that_was_seen_is_replaced(catalog: Subject) {
    let first = create(&catalog, "t").await;
    let replacing = |seen| CreateTable {
        seen: Some(seen),
        ..request(first.name.clone(), IfExists::Replace)
    };
    let hidden = |seen, hidden: &str| CreateTable {
        unpublished: Some(hidden.to_owned()),
        ..replacing(seen)
    };
    let seen = Seen::Table(first.id);
    let filled = catalog.create_table(hidden(seen, "a")).await.unwrap();
    let second = catalog.create_table(replacing(seen)).await.unwrap();
    assert_ne!(second.id, first.id);

    let by_name = |of: &TableName| {
        let (catalog, of) = (Arc::clone(&catalog), of.clone());
        async move { catalog.table(&of).await.unwrap() }
    };
    for seen in [seen, Seen::Nothing] {
        for late in [replacing(seen), hidden(seen, "b")] {
            let refused = catalog.create_table(late).await;
            assert!(
                matches!(&refused, Err(Error::TableReplaced(name)) if name == "default.public.t"),
                "{refused:?}"
            );
        }
        let refused = catalog
            .publish_table(filled.id, &first.name, IfExists::Replace, Some(seen))
            .await;
        assert!(
            matches!(refused, Err(Error::TableReplaced(_))),
            "{refused:?}"
        );
        assert_eq!(by_name(&first.name).await.as_ref(), Some(&second));
        assert_eq!(by_name(&filled.name).await.as_ref(), Some(&filled));
    }

    // Nor is one made anew that was dropped.
    catalog.drop_table(&first.name, false, None).await.unwrap();
    let refused = catalog
        .create_table(replacing(Seen::Table(second.id)))
        .await;
    assert!(matches!(refused, Err(Error::TableReplaced(_))));
    assert_eq!(by_name(&first.name).await, None);

    // A repeat of a publication finds it done.
    for _ in 0..2 {
        let published = catalog
            .publish_table(
                filled.id,
                &first.name,
                IfExists::Replace,
                Some(Seen::Nothing),
            )
            .await;
        assert_eq!(published.unwrap().id, filled.id);
    }
}

pub async fn a_schema_evolves_only_from_the_present_version(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let wider = schema("wider schema");
    let evolved = catalog
        .evolve_table(table.id, table.schema_version, wider.clone())
        .await
        .unwrap();
    assert_eq!(evolved.schema_version, SchemaVersion(2));
    assert_eq!(evolved.schema, wider);
    assert_eq!(catalog.table(&table.name).await.unwrap(), Some(evolved));

    let late = catalog
        .evolve_table(table.id, table.schema_version, wider.clone())
        .await;
    assert!(matches!(
        late,
        Err(Error::SchemaChanged { table: id, expected: SchemaVersion(1) }) if id == table.id
    ));
    let unknown = catalog
        .evolve_table(TableId(77), SchemaVersion(1), wider)
        .await;
    assert!(matches!(unknown, Err(Error::TableNotFound(name)) if name.contains("77")));
}

pub async fn tables_are_listed_by_name_and_database(catalog: Subject) {
    catalog.create_database("b", false).await.unwrap();
    for (database, table) in [("default", "z"), ("b", "m"), ("default", "a")] {
        let name = TableName::public(database, table);
        catalog
            .create_table(request(name, IfExists::Fail))
            .await
            .unwrap();
    }
    let listed = |tables: Vec<flightcluster_catalog::Table>| -> Vec<String> {
        tables
            .into_iter()
            .map(|table| table.name.to_string())
            .collect()
    };
    assert_eq!(
        listed(catalog.list_tables(None).await.unwrap()),
        ["b.public.m", "default.public.a", "default.public.z"]
    );
    assert_eq!(
        listed(catalog.list_tables(Some("default")).await.unwrap()),
        ["default.public.a", "default.public.z"]
    );
    assert!(
        catalog
            .list_tables(Some("nowhere"))
            .await
            .unwrap()
            .is_empty()
    );
}

/// A table to be published as `name`.
async fn unpublished(catalog: &Subject, name: &TableName, hidden: &str) -> Table {
    let request = CreateTable {
        unpublished: Some(hidden.to_owned()),
        ..request(name.clone(), IfExists::Replace)
    };
    catalog.create_table(request).await.unwrap()
}

pub async fn an_unpublished_table_is_in_no_list_until_it_gets_its_name_with_all_it_holds(
    catalog: Subject,
) {
    let name = TableName::public("default", "t");
    let hidden = unpublished(&catalog, &name, "a1").await;
    assert_eq!(hidden.name.to_string(), "default.unpublished.a1");
    assert!(catalog.list_tables(None).await.unwrap().is_empty());
    let listed = catalog.list_tables(Some("default")).await.unwrap();
    assert!(listed.is_empty());
    assert_eq!(catalog.table(&name).await.unwrap(), None);
    // Ingesters find it, by name and by id.
    let found = catalog.table(&hidden.name).await.unwrap();
    assert_eq!(found.as_ref(), Some(&hidden));
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(hidden.id, "one.parquet", 1, 5)).await;
    let before = catalog.snapshot(&[]).await.unwrap().id;

    let published = catalog
        .publish_table(hidden.id, &name, IfExists::Fail, None)
        .await;
    let published = published.unwrap();
    assert_eq!((published.id, &published.name), (hidden.id, &name));
    let snapshot = catalog.snapshot(&[]).await.unwrap();
    assert_eq!(snapshot.id.0, before.0 + 1);
    let listed = catalog.list_tables(None).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&published));
    assert_eq!(catalog.table(&hidden.name).await.unwrap(), None);
    let paths = vec!["one.parquet".to_owned()];
    let watermarks = vec![(ingester.id.0, 5)];
    assert_eq!(content(&catalog, &published).await, (paths, watermarks));
    // A flush that was under way goes to the same table.
    commit(&catalog, &ingester, file(hidden.id, "two.parquet", 6, 7)).await;
    assert_eq!(content(&catalog, &published).await.0.len(), 2);
}

pub async fn publishing_refuses_keeps_or_replaces_the_table_of_that_name(catalog: Subject) {
    let old = create(&catalog, "t").await;
    let ids = |ids: [TableId; 2]| {
        let catalog = Arc::clone(&catalog);
        async move {
            let live = catalog.tables_by_id(&ids).await.unwrap();
            live.into_iter().map(|table| table.id).collect::<Vec<_>>()
        }
    };
    for if_exists in [IfExists::Fail, IfExists::Keep] {
        let request = CreateTable {
            unpublished: Some("early".to_owned()),
            ..request(old.name.clone(), if_exists)
        };
        match catalog.create_table(request).await {
            Err(Error::TableExists(_)) => assert_eq!(if_exists, IfExists::Fail),
            kept => assert_eq!(kept.unwrap(), old),
        }
    }
    let new = unpublished(&catalog, &old.name, "new").await;
    assert_eq!(ids([old.id, new.id]).await, [old.id, new.id]);

    let refused = catalog
        .publish_table(new.id, &old.name, IfExists::Fail, None)
        .await;
    assert!(matches!(refused, Err(Error::TableExists(name)) if name == "default.public.t"));
    assert_eq!(ids([old.id, new.id]).await, [old.id, new.id]);

    let kept = catalog
        .publish_table(new.id, &old.name, IfExists::Keep, None)
        .await;
    assert_eq!(kept.unwrap(), old);
    assert_eq!(ids([old.id, new.id]).await, [old.id]);

    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(old.id, "old.parquet", 1, 5)).await;
    let new = unpublished(&catalog, &old.name, "newer").await;
    commit(&catalog, &ingester, file(new.id, "new.parquet", 6, 9)).await;
    assert_eq!(content(&catalog, &old).await.0, ["old.parquet"]);
    let replaced = catalog
        .publish_table(new.id, &old.name, IfExists::Replace, None)
        .await;
    assert_eq!(replaced.unwrap().id, new.id);
    assert_eq!(ids([old.id, new.id]).await, [new.id]);
    assert_eq!(content(&catalog, &old).await.0, ["new.parquet"]);
}

pub async fn a_repeated_or_late_publication_changes_nothing(catalog: Subject) {
    let name = TableName::public("default", "t");
    let hidden = unpublished(&catalog, &name, "a").await;
    let first = catalog
        .publish_table(hidden.id, &name, IfExists::Replace, None)
        .await;
    let newest = catalog.snapshot(&[]).await.unwrap().id;
    for if_exists in [IfExists::Fail, IfExists::Keep, IfExists::Replace] {
        let again = catalog
            .publish_table(hidden.id, &name, if_exists, None)
            .await;
        assert_eq!(&again.unwrap(), first.as_ref().unwrap());
    }
    assert_eq!(catalog.snapshot(&[]).await.unwrap().id, newest);

    let late = unpublished(&catalog, &name, "b").await;
    catalog.drop_table(&late.name, false, None).await.unwrap();
    let elsewhere = unpublished(&catalog, &name, "c").await;
    catalog.create_database("d", false).await.unwrap();
    let other = TableName::public("d", "t");
    for (id, name) in [
        (late.id, &name),
        (elsewhere.id, &other),
        (TableId(99), &name),
    ] {
        let refused = catalog
            .publish_table(id, name, IfExists::Replace, None)
            .await;
        assert!(
            matches!(refused, Err(Error::TableNotFound(_))),
            "{refused:?}"
        );
    }
    assert_eq!(catalog.table(&name).await.unwrap(), first.ok());
}

pub async fn nobody_creates_a_table_among_the_unpublished_ones(catalog: Subject) {
    let name = TableName {
        schema: UNPUBLISHED_SCHEMA.to_owned(),
        ..TableName::public("default", "t")
    };
    let created = catalog
        .create_table(request(name.clone(), IfExists::Keep))
        .await;
    assert!(matches!(created, Err(Error::InvalidName { .. })));
    let hidden = unpublished(&catalog, &TableName::public("default", "t"), "a").await;
    let published = catalog
        .publish_table(hidden.id, &name, IfExists::Fail, None)
        .await;
    assert!(matches!(published, Err(Error::InvalidName { .. })));
}

pub async fn options_are_set_and_removed_and_those_of_a_database_are_with_its_tables(
    catalog: Subject,
) {
    let table = create(&catalog, "t").await;
    let set = |of: OptionsOf, name: &str, value: Option<&str>| {
        let changes = [(name.to_owned(), value.map(str::to_owned))].into();
        catalog.set_options(SetOptions {
            of,
            changes,
            seen: None,
            id: None,
        })
    };
    let of_table = || OptionsOf::Table(table.name.clone());
    let of_database = |name: &str| OptionsOf::Database(name.to_owned());
    let before = catalog.snapshot(&[]).await.unwrap().id;
    set(of_table(), "retention", Some("30d")).await.unwrap();
    set(of_database("default"), "retention", Some("é'90d"))
        .await
        .unwrap();
    set(of_database("default"), "other", Some("x"))
        .await
        .unwrap();
    assert!(catalog.snapshot(&[]).await.unwrap().id > before);
    let found = catalog.table(&table.name).await.unwrap().unwrap();
    assert_eq!(found.options["retention"], "30d");
    assert_eq!(found.options["time_column"], "time", "others stay");
    assert_eq!(found.database_options["retention"], "é'90d");
    let names = std::slice::from_ref(&table.name);
    assert_eq!(
        catalog.snapshot(names).await.unwrap().tables[0].table,
        found
    );
    // A table that is made later is of the database too.
    let later = create(&catalog, "later").await;
    assert_eq!(later.database_options, found.database_options);
    assert_eq!(later.option("retention"), Some("é'90d"));
    set(of_table(), "retention", None).await.unwrap();
    set(of_table(), "never-was", None).await.unwrap();
    set(of_database("default"), "other", None).await.unwrap();
    let found = catalog.table(&table.name).await.unwrap().unwrap();
    assert_eq!(found.options.len(), 1);
    assert_eq!(found.database_options.len(), 1);
    let missing = set(
        OptionsOf::Table(TableName::public("default", "no")),
        "a",
        None,
    )
    .await;
    assert!(
        matches!(missing, Err(Error::TableNotFound(_))),
        "{missing:?}"
    );
    let missing = set(of_database("no"), "a", None).await;
    assert!(matches!(missing, Err(Error::DatabaseNotFound(name)) if name == "no"));
}

/// Its answer was lost, and so was the way of a copy of it, which arrives when others were answered.
pub async fn a_late_repeat_sets_no_option_again(catalog: Subject) {
    let table = create(&catalog, "t").await;
    for of in [
        OptionsOf::Table(table.name.clone()),
        OptionsOf::Database(table.name.database.clone()),
    ] {
        let set = |value: &str, id: Option<String>| {
            catalog.set_options(SetOptions {
                of: of.clone(),
                changes: [("retention".to_owned(), Some(value.to_owned()))].into(),
                seen: None,
                id,
            })
        };
        let named = |name: &str| Some(format!("{name} {of:?}"));
        set("7d", named("first")).await.unwrap();
        set("30d", named("second")).await.unwrap();
        let before = catalog.snapshot(&[]).await.unwrap().id;
        set("7d", named("first")).await.unwrap();
        let found = catalog.table(&table.name).await.unwrap().unwrap();
        assert_eq!(found.option("retention"), Some("30d"));
        assert_eq!(catalog.snapshot(&[]).await.unwrap().id, before);
        set("7d", named("third")).await.unwrap();
        let found = catalog.table(&table.name).await.unwrap().unwrap();
        assert_eq!(found.option("retention"), Some("7d"));
        // For the database to be asked.
        catalog
            .set_options(SetOptions {
                of: of.clone(),
                changes: [("retention".to_owned(), None)].into(),
                seen: None,
                id: None,
            })
            .await
            .unwrap();
    }
    // What was refused has taken no effect.
    let refused = |name: &TableName| SetOptions {
        of: OptionsOf::Table(name.clone()),
        changes: [("retention".to_owned(), Some("1d".to_owned()))].into(),
        seen: None,
        id: Some("refused".to_owned()),
    };
    let later = TableName::public("default", "later");
    catalog.set_options(refused(&later)).await.unwrap_err();
    let later = create(&catalog, "later").await;
    catalog.set_options(refused(&later.name)).await.unwrap();
    let found = catalog.table(&later.name).await.unwrap().unwrap();
    assert_eq!(found.options["retention"], "1d");
}

pub async fn only_the_table_that_was_seen_gets_other_options(catalog: Subject) {
    let first = create(&catalog, "t").await;
    let set = |seen, value: &str| {
        catalog.set_options(SetOptions {
            of: OptionsOf::Table(first.name.clone()),
            changes: [("retention".to_owned(), Some(value.to_owned()))].into(),
            seen: Some(seen),
            id: None,
        })
    };
    let seen = Seen::Table(first.id);
    // And again, as after a lost answer.
    for value in ["30d", "30d"] {
        set(seen, value).await.unwrap();
    }
    let found = catalog.table(&first.name).await.unwrap().unwrap();
    assert_eq!(found.options["retention"], "30d");

    catalog.drop_table(&first.name, false, None).await.unwrap();
    let gone = set(seen, "1h").await;
    assert!(matches!(gone, Err(Error::TableNotFound(_))), "{gone:?}");
    let next = create(&catalog, "t").await;
    let before = catalog.snapshot(&[]).await.unwrap().id;
    // That would tell the caller to repeat it, and the next time it would see the later table.
    let late = set(seen, "1h").await;
    assert!(
        matches!(&late, Err(Error::TableNotFound(name)) if name == "default.public.t"),
        "{late:?}"
    );
    let late = set(Seen::Nothing, "1h").await;
    assert!(
        matches!(&late, Err(Error::TableReplaced(name)) if name == "default.public.t"),
        "{late:?}"
    );
    let found = catalog.table(&next.name).await.unwrap();
    assert_eq!(found, Some(next));
    assert_eq!(catalog.snapshot(&[]).await.unwrap().id, before);
}
