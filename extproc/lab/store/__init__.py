"""The store of records: one SQL, on chDB in this process or on a ClickHouse server."""
