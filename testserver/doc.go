// Package testserver starts private instances of real database servers for
// tests and benchmarks: on free ports of 127.0.0.1, with data in a temporary
// folder, run by a process group of their own that can be killed, paused and
// started again.
//
// Nothing outlives the process that started it. [StopAll] at the end of a
// TestMain stops what is left; a process that is killed before has its servers
// killed, and their data removed, by a watchdog.
//
//	func TestMain(m *testing.M) {
//		code := m.Run()
//		testserver.StopAll()
//		os.Exit(code)
//	}
//
//	var postgres = sync.OnceValues(func() (*testserver.Server, error) { return testserver.Postgres(nil) })
//
//	func TestSomething(t *testing.T) {
//		s, err := postgres()
//		if !testserver.Need(t, "postgres", err) {
//			return
//		}
//		…
//	}
//
// The programs are looked for in PATH and where distributions keep them. Who
// can't install them names servers of their own by variables:
// IDEM_TEST_POSTGRES_DSN, IDEM_TEST_MARIADB_DSN, IDEM_TEST_MYSQL_DSN,
// IDEM_TEST_REDIS_DSN, IDEM_TEST_NATS_DSN. A variable that is set is taken, also where
// the program is there; such a server is [Server.External] and can be neither
// killed nor paused. Options that only a private server can have still start one.
package testserver
