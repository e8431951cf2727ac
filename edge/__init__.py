"""HTTP for people and providers: the unsubscribe page first."""
