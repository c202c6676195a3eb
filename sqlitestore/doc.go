// Package sqlitestore keeps the records of idem in a SQLite database of the application's.
package sqlitestore
