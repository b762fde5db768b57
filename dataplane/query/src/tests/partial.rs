//! Partial answers: what can be reached, and what is said to be missing.

use std::time::Duration;

use arrow_array::RecordBatch;
use futures::TryStreamExt as _;

use super::fixture::{Cluster, DATABASE, Fault, int64s, points, points_schema};
use super::upserts::{keyed, rows};
use crate::past::AsOf;
use crate::{Error, ExecuteOptions, Missing, Patience, QueryRequest};

fn request(sql: &str) -> QueryRequest {
    QueryRequest {
        partial: true,
        ..Cluster::request(sql)
    }
}

async fn partial(cluster: &Cluster, sql: &str) -> Result<(Vec<RecordBatch>, Vec<Missing>), Error> {
    let plan = cluster.engine.plan(request(sql)).await?;
    let options = ExecuteOptions::default();
    let (batches, missing) = cluster.engine.execute_partial(plan, options).await?;
    Ok((batches.try_collect().await?, missing))
}

/// Names of ingesters, and of the tables of each.
fn names(missing: &[Missing]) -> Vec<(&str, Vec<&str>)> {
    missing
        .iter()
        .map(|missing| {
            let tables = missing.tables.iter().map(|table| table.table.as_str());
            (missing.ingester.as_str(), tables.collect())
        })
        .collect()
}

#[tokio::test]
async fn a_partial_answer_has_all_files_and_says_whose_rows_it_lacks() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.ingesters.fail("b", &[Fault::Unreachable; 1000]);
    let sql = "SELECT id FROM t ORDER BY id";
    let (answer, missing) = partial(&cluster, sql).await.unwrap();
    // What b holds in memory and has in a file too is not missing.
    assert_eq!(int64s(&answer, 0), (1..=290).collect::<Vec<_>>());
    assert_eq!(names(&missing), [("b", vec!["t"])]);
    let all = cluster.catalog.list_ingesters().await.unwrap();
    let b = all.iter().find(|each| each.name == "b").unwrap();
    assert_eq!(missing[0].heard_of_at_millis, b.seen_at_millis);
    // Whoever did not ask has none.
    let error = cluster.query(sql).await.unwrap_err();
    assert_eq!(error.category(), "ingester_unavailable");

    cluster.ingesters.fail("a", &[Fault::Unreachable; 1000]);
    let (answer, missing) = partial(&cluster, "SELECT count(*) FROM t x, t y")
        .await
        .unwrap();
    assert_eq!(int64s(&answer, 0), [240 * 240]);
    assert_eq!(names(&missing), [("a", vec!["t"]), ("b", vec!["t"])]);
}

#[tokio::test]
async fn a_table_that_is_not_read_lacks_nothing() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.create("u", &points_schema()).await;
    cluster.ingesters.fail("b", &[Fault::Unreachable; 1000]);
    let (_, missing) = partial(&cluster, "SELECT id FROM u").await.unwrap();
    assert_eq!(names(&missing), [("b", vec!["u"])]);
    let sql = "SELECT t.id FROM t JOIN u ON t.id = u.id";
    let (_, missing) = partial(&cluster, sql).await.unwrap();
    assert_eq!(names(&missing), [("b", vec!["t", "u"])]);
    let (answer, missing) = partial(&cluster, "SELECT 1").await.unwrap();
    assert_eq!((int64s(&answer, 0), names(&missing)), (vec![1], vec![]));
    // The past is in files.
    let state = cluster.plan("SELECT id FROM t").await.unwrap();
    let state = state.snapshot_id().unwrap().to_string();
    let past = QueryRequest {
        as_of: Some(AsOf::parse(&state).unwrap()),
        ..request("SELECT count(*) FROM t")
    };
    let plan = cluster.engine.plan(past).await.unwrap();
    let run = cluster
        .engine
        .execute_partial(plan, ExecuteOptions::default());
    let (answer, missing) = run.await.unwrap();
    let answer: Vec<RecordBatch> = answer.try_collect().await.unwrap();
    assert_eq!((int64s(&answer, 0), names(&missing)), (vec![240], vec![]));
}

#[tokio::test]
async fn an_answer_is_whole_if_the_ingester_comes_back_in_time() {
    let cluster = Cluster::start().await;
    let table = cluster.spread().await;
    let count = "SELECT count(*) FROM t";
    let twice = [Fault::Unreachable, Fault::Unreachable];
    cluster.ingesters.fail("b", &twice);
    let (answer, missing) = partial(&cluster, count).await.unwrap();
    assert_eq!((int64s(&answer, 0), names(&missing)), (vec![300], vec![]));
    // Rows that have moved into a file are not out of reach.
    cluster.ingesters.fail("a", &[Fault::FlushAndForget]);
    let (answer, missing) = partial(&cluster, count).await.unwrap();
    assert_eq!((int64s(&answer, 0), names(&missing)), (vec![300], vec![]));
    // Also while another ingester is away.
    cluster.ingesters.write("a", &table, points(301..=310));
    cluster.ingesters.fail("a", &[Fault::FlushAndForget]);
    cluster.ingesters.fail("b", &[Fault::Unreachable; 1000]);
    let (answer, missing) = partial(&cluster, count).await.unwrap();
    assert_eq!(int64s(&answer, 0), [300]);
    assert_eq!(names(&missing), [("b", vec!["t"])]);
}

#[tokio::test]
async fn an_ingester_that_never_answers_counts_as_lost() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.ingesters.fail("b", &[Fault::Silent; 1000]);
    let (answer, missing) = partial(&cluster, "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(int64s(&answer, 0), [290]);
    assert_eq!(names(&missing), [("b", vec!["t"])]);
}

/// For what must be whole it is waited longer, and not for ever.
#[tokio::test]
async fn a_whole_answer_waits_longer_for_a_silent_ingester_and_then_fails() {
    let mut cluster = Cluster::start().await;
    cluster.spread().await;
    keyed(&cluster, "k").await;
    cluster.be_patient(Patience {
        silence: Duration::from_millis(50),
        partial_silence: Duration::from_secs(3600),
        ..Patience::default()
    });
    cluster.ingesters.fail("b", &[Fault::Silent; 1000]);
    let all = cluster.query("SELECT id FROM t");
    // A partial answer of a key would be no answer.
    let newest = partial(&cluster, "SELECT v FROM k");
    let both = async { (all.await.unwrap_err(), newest.await.unwrap_err()) };
    let (all, newest) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
    for error in [all, newest] {
        assert_eq!(error.category(), "ingester_unavailable", "{error}");
    }
}

/// However long the first attempt took.
#[tokio::test]
async fn what_an_ingester_no_longer_has_is_looked_for_in_files_at_least_once() {
    let mut cluster = Cluster::start().await;
    let table = cluster.spread().await;
    cluster.be_patient(Patience {
        total: Duration::ZERO,
        ..Patience::default()
    });
    let count = "SELECT count(*) FROM t";
    cluster.ingesters.fail("a", &[Fault::FlushAndForget]);
    cluster.ingesters.fail("b", &[Fault::Unreachable; 1000]);
    let (answer, missing) = partial(&cluster, count).await.unwrap();
    assert_eq!(int64s(&answer, 0), [290]);
    assert_eq!(names(&missing), [("b", vec!["t"])]);
    cluster.ingesters.fail("b", &[]);
    cluster.ingesters.write("a", &table, points(301..=310));
    cluster.ingesters.fail("a", &[Fault::FlushAndForget]);
    assert_eq!(cluster.number(count).await, 310);
}

/// An attempt that another one follows ends at the first loss, whatever the other ingesters do.
#[tokio::test]
async fn rows_are_not_waited_for_that_are_asked_for_again() {
    let mut cluster = Cluster::start().await;
    cluster.spread().await;
    let long = Duration::from_secs(3600);
    cluster.be_patient(Patience {
        total: long,
        partial_silence: long,
        ..Patience::default()
    });
    cluster.ingesters.fail("a", &[Fault::Silent]);
    cluster.ingesters.fail("b", &[Fault::Unreachable]);
    let answer = partial(&cluster, "SELECT count(*) FROM t");
    let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
    let (answer, missing) = answer.unwrap().unwrap();
    assert_eq!((int64s(&answer, 0), names(&missing)), (vec![300], vec![]));
}

#[tokio::test]
async fn rows_of_an_ingester_that_breaks_off_take_no_memory() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.ingesters.fail("b", &[Fault::BreaksOff; 1000]);
    let plan = cluster.engine.plan(request("SELECT id FROM t")).await;
    let options = ExecuteOptions::default();
    let run = cluster.engine.execute_partial(plan.unwrap(), options);
    let (_rows, missing) = run.await.unwrap();
    assert_eq!(names(&missing), [("b", vec!["t"])]);
    let taken = cluster.engine.stats().memory_reserved_bytes;
    assert!(taken < 8 << 20, "{taken}");
}

#[tokio::test]
async fn a_bug_of_an_ingester_is_no_missing_row() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.ingesters.fail("a", &[Fault::Nonsense]);
    let error = partial(&cluster, "SELECT sum(id) FROM t")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "ingester_answer", "{error:?}");
}

/// The newest row of a key may be the one that is missing.
#[tokio::test]
async fn a_table_with_a_key_is_read_whole_or_not_at_all() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let table = keyed(&cluster, "k").await;
    cluster
        .ingesters
        .write("a", &table, rows(&[(1, 1, Some(1))]));
    cluster
        .ingesters
        .write("b", &table, rows(&[(1, 1, Some(2))]));
    let sql = "SELECT v FROM k";
    let (answer, missing) = partial(&cluster, sql).await.unwrap();
    assert_eq!((int64s(&answer, 0), names(&missing)), (vec![2], vec![]));
    cluster.ingesters.fail("b", &[Fault::Unreachable; 1000]);
    for sql in [sql, "SELECT count(*) FROM t, k"] {
        let error = partial(&cluster, sql).await.unwrap_err();
        let said = error.to_string();
        assert_eq!(error.category(), "ingester_unavailable");
        let name = format!("no partial answer of {DATABASE}.public.k: it has a primary key");
        assert!(
            said.contains("ingester b ") && said.contains(&name),
            "{said}"
        );
        // To those who did not ask it is not explained.
        let said = cluster.query(sql).await.unwrap_err().to_string();
        assert!(!said.contains("partial"), "{said}");
    }
}

#[tokio::test]
async fn what_changes_something_is_not_done_in_part() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for sql in [
        "INSERT INTO t SELECT * FROM t",
        "CREATE TABLE u AS SELECT * FROM t",
        "CREATE TABLE u (n BIGINT)",
        "DELETE FROM t WHERE id = 1",
        "TRUNCATE TABLE t",
        "DROP TABLE t",
    ] {
        let error = cluster.engine.plan(request(sql)).await.unwrap_err();
        assert_eq!(error.category(), "partial", "{sql}: {error}");
        // Nor if the plan was made without the wish.
        let plan = cluster.plan(sql).await.unwrap();
        let run = cluster
            .engine
            .execute_partial(plan, ExecuteOptions::default());
        let error = run.await.map(|(_, missing)| missing).unwrap_err();
        assert_eq!(error.category(), "partial", "{sql}: {error}");
    }
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
}
