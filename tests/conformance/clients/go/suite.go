// Conformance checks through amqp091-go: `AMQP_URL=.. suite CHECK..` (none named: all).
//
// Prints a line for each check: `ok NAME`, `fail NAME reason` or `skip NAME since X.Y reason`.
package main

import (
	"fmt"
	"os"
	"sort"
)

var checks = map[string]func(*check){}

func register(more map[string]func(*check)) {
	for name, body := range more {
		checks[name] = body
	}
}

func main() {
	register(connectionChecks)
	register(queueChecks)
	register(messageChecks)
	register(deliveryChecks)
	register(exchangeChecks)
	names := os.Args[1:]
	if len(names) == 0 {
		for name := range checks {
			names = append(names, name)
		}
		sort.Strings(names)
	}
	for _, name := range names {
		fmt.Println(run(name, checks[name]))
	}
}
