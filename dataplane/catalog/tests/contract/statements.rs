//! Statements that are done once.

use std::time::Duration;

use flightcluster_catalog::{BeginStatement, StatementProgress};

use super::Subject;

async fn begin(catalog: &Subject, id: &str, run: &str) -> StatementProgress {
    let request = BeginStatement {
        id: id.to_owned(),
        run: run.to_owned(),
        expires_at_millis: 1_000,
    };
    catalog.begin_statement(request).await.unwrap()
}

pub async fn a_statement_is_begun_once_and_its_outcome_known_to_all(catalog: Subject) {
    assert_eq!(begin(&catalog, "a", "1").await, StatementProgress::Begun);
    // Its answer was lost, and the request sent again.
    assert_eq!(begin(&catalog, "a", "1").await, StatementProgress::Begun);
    assert_eq!(
        begin(&catalog, "a", "2").await,
        StatementProgress::BegunBefore
    );
    assert_eq!(begin(&catalog, "b", "2").await, StatementProgress::Begun);
    for _ in 0..2 {
        catalog.end_statement("a", 7).await.unwrap();
        let ended = StatementProgress::Ended { rows: 7 };
        assert_eq!(begin(&catalog, "a", "2").await, ended);
    }
    assert_eq!(
        begin(&catalog, "b", "3").await,
        StatementProgress::BegunBefore
    );
}

pub async fn a_statement_is_forgotten_long_after_its_ticket_ended(catalog: Subject) {
    let request = |id: &str, expires_at_millis| BeginStatement {
        id: id.to_owned(),
        run: "1".to_owned(),
        expires_at_millis,
    };
    catalog
        .begin_statement(request("old", 1_000))
        .await
        .unwrap();
    let later = catalog.time().await.unwrap().millis + 60_000;
    catalog
        .begin_statement(request("new", later))
        .await
        .unwrap();
    let hour = Duration::from_secs(3600);
    catalog.forget_history(hour).await.unwrap();
    assert_eq!(begin(&catalog, "old", "2").await, StatementProgress::Begun);
    assert_eq!(
        begin(&catalog, "new", "2").await,
        StatementProgress::BegunBefore
    );
}
