//go:build !unix

package sqlitestore_test

const jobVariable = "IDEM_SQLITESTORE_JOB"

// runJob has no jobs where processes cannot be stopped.
func runJob(string) int { return 1 }
