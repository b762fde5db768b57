//! `CommandGetSqlInfo`: what this server says it can do. Every value is true of the code; a driver
//! acts on it.

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions,
    SupportedSqlGrammar,
};

/// Version of the Arrow columnar format spoken on the wire.
const ARROW_FORMAT_VERSION: &str = "1.5";

/// All values, in one table that `CommandGetSqlInfo` filters.
pub(crate) fn sql_info() -> Result<SqlInfoData, FlightError> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "FlightCluster");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_FORMAT_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(
        SqlInfo::FlightSqlServerTransaction,
        SqlSupportedTransaction::None as i32,
    );
    info.append(SqlInfo::FlightSqlServerCancel, false);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0i32);
    // CREATE DATABASE, but no DROP DATABASE.
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, true);
    info.append(
        SqlInfo::SqlIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32,
    );
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(
        SqlInfo::SqlNullOrdering,
        SqlNullOrdering::SqlNullsSortedHigh as i32,
    );
    info.append(
        SqlInfo::SqlKeywords,
        &["DESCRIBE", "EXPLAIN", "SHOW"] as &[&str],
    );
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    info.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    info.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    info.append(
        SqlInfo::SqlSupportedGrammar,
        1i32 << (SupportedSqlGrammar::SqlMinimumGrammar as i32)
            | 1 << (SupportedSqlGrammar::SqlCoreGrammar as i32),
    );
    info.append(SqlInfo::SqlAnsi92SupportedLevel, 0b1i32);
    info.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    info.append(
        SqlInfo::SqlSupportedGroupBy,
        1i32 << (SqlSupportedGroupBy::SqlGroupByUnrelated as i32)
            | 1 << (SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32),
    );
    info.append(
        SqlInfo::SqlOuterJoinsSupportLevel,
        1i32 << (SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32),
    );
    info.append(
        SqlInfo::SqlSupportedSubqueries,
        1i32 << (SqlSupportedSubqueries::SqlSubqueriesInExists as i32)
            | 1 << (SqlSupportedSubqueries::SqlSubqueriesInIns as i32)
            | 1 << (SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32),
    );
    info.append(
        SqlInfo::SqlSupportedUnions,
        1i32 << (SqlSupportedUnions::SqlUnion as i32)
            | 1 << (SqlSupportedUnions::SqlUnionAll as i32),
    );
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "database");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSelectForUpdateSupported, false);
    info.append(SqlInfo::SqlStoredProceduresSupported, false);
    info.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    info.append(SqlInfo::SqlMaxBinaryLiteralLength, 0i64);
    info.append(SqlInfo::SqlMaxCharLiteralLength, 0i64);
    info.append(SqlInfo::SqlMaxColumnNameLength, 0i64);
    info.append(SqlInfo::SqlMaxColumnsInTable, 0i64);
    info.append(SqlInfo::SqlMaxStatementLength, 0i64);
    info.append(SqlInfo::SqlMaxStatements, 0i64);
    info.append(SqlInfo::SqlMaxTableNameLength, 255i64);
    info.append(SqlInfo::SqlMaxCatalogNameLength, 64i64);
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    info.append(SqlInfo::SqlBatchUpdatesSupported, true);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, true);
    info.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    info.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
    info.build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    /// Superset's dialect fails without 0, 2, 3 and 504; ADBC reads 0, 1, 2 and 4 to 8.
    #[test]
    fn the_values_that_drivers_insist_on_are_there() {
        let info = sql_info().unwrap();
        for id in [0, 1, 2, 3, 4, 5, 8, 10, 504] {
            assert_eq!(info.record_batch([id]).unwrap().num_rows(), 1, "{id}");
        }
        assert!(info.record_batch([]).unwrap().num_rows() > 50);
    }
}
