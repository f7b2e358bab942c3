"""The live catalogue.

The store: its interface (`store`), log and lease in SQL (`sql`) in a file (`sqlite`), the tables and the
revisions that lead to them (`schema`, `migrations`). Then the one writer (`log`), what follows it (`tail`),
and what can go wrong (`errors`).

What its rows say (`rows`, `checksum`), what the oldest events are folded into (`snapshot`, read through
`sql_view`) and when (`retention`). For operators (`commands`): looking for damage (`verify`, over
`inspection`), putting rows back (`repair`), and backups (`backup`, `export`).
"""
