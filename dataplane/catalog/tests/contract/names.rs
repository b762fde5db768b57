//! Databases and the rules for names.

use flightcluster_catalog::{Error, IfExists, TableName};

use super::{Subject, life, request};

pub async fn the_default_database_exists_from_the_start(catalog: Subject) {
    catalog.ping().await.unwrap();
    let databases = catalog.list_databases().await.unwrap();
    assert_eq!(databases.len(), 1);
    assert_eq!(databases[0].name, "default");
    assert!(databases[0].created_at_millis > 1_600_000_000_000);
}

pub async fn a_database_is_created_once(catalog: Subject) {
    let created = catalog.create_database("Wetter", false).await.unwrap();
    let kept = catalog.create_database("Wetter", true).await.unwrap();
    assert_eq!(created, kept);
    let again = catalog.create_database("Wetter", false).await;
    assert!(matches!(again, Err(Error::DatabaseExists(name)) if name == "Wetter"));
    let names: Vec<_> = catalog
        .list_databases()
        .await
        .unwrap()
        .into_iter()
        .map(|d| d.name)
        .collect();
    assert_eq!(names, ["Wetter", "default"]);
}

pub async fn unusable_names_are_refused(catalog: Subject) {
    for name in ["", "a/b", "nul\0", &"x".repeat(65)] {
        let result = catalog.create_database(name, true).await;
        assert!(
            matches!(result, Err(Error::InvalidName { .. })),
            "{name:?}: {result:?}"
        );
    }
    for (schema, table) in [
        ("public", "a/b"),
        ("public", ""),
        ("system", "queries"),
        ("information_schema", "tables"),
    ] {
        let name = TableName {
            database: "default".to_owned(),
            schema: schema.to_owned(),
            table: table.to_owned(),
        };
        let result = catalog.create_table(request(name, IfExists::Keep)).await;
        assert!(
            matches!(result, Err(Error::InvalidName { .. })),
            "{schema}.{table}: {result:?}"
        );
    }
    let result = catalog.register_ingester(life("", "")).await;
    assert!(
        matches!(result, Err(Error::InvalidName { .. })),
        "{result:?}"
    );
}
