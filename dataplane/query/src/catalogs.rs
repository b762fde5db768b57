//! The databases, schemas and tables one statement can see, as the engine looks them up.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use flightcluster_catalog::TableName;

/// What the template session sees: nothing.
#[derive(Debug)]
pub(crate) struct NoCatalogs;

impl CatalogProviderList for NoCatalogs {
    fn register_catalog(
        &self,
        _name: String,
        _catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn catalog(&self, _name: &str) -> Option<Arc<dyn CatalogProvider>> {
        None
    }
}

/// The databases of one statement. Fixed once built; nothing can be registered.
#[derive(Debug, Default)]
pub(crate) struct Databases(BTreeMap<String, Arc<Schemas>>);

/// The schemas of one database.
#[derive(Debug, Default)]
pub(crate) struct Schemas(BTreeMap<String, Arc<Tables>>);

/// The tables of one schema.
#[derive(Debug, Default)]
pub(crate) struct Tables(BTreeMap<String, Arc<dyn TableProvider>>);

impl Databases {
    /// Sorts tables into databases and schemas; each of `databases` exists, also when empty.
    pub(crate) fn new(
        databases: impl IntoIterator<Item = String>,
        tables: impl IntoIterator<Item = (TableName, Arc<dyn TableProvider>)>,
    ) -> Self {
        let mut tree: BTreeMap<String, BTreeMap<String, Tables>> = databases
            .into_iter()
            .map(|name| (name, BTreeMap::new()))
            .collect();
        for (name, table) in tables {
            let schemas = tree.entry(name.database).or_default();
            schemas
                .entry(name.schema)
                .or_default()
                .0
                .insert(name.table, table);
        }
        let schemas = |schemas: BTreeMap<String, Tables>| {
            Schemas(
                schemas
                    .into_iter()
                    .map(|(name, tables)| (name, Arc::new(tables)))
                    .collect(),
            )
        };
        Self(
            tree.into_iter()
                .map(|(name, tree)| (name, Arc::new(schemas(tree))))
                .collect(),
        )
    }
}

impl CatalogProviderList for Databases {
    fn register_catalog(
        &self,
        _name: String,
        _catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let schemas = self.0.get(name)?;
        Some(Arc::clone(schemas) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for Schemas {
    fn schema_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let tables = self.0.get(name)?;
        Some(Arc::clone(tables) as Arc<dyn SchemaProvider>)
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.0.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
