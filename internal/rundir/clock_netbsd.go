package rundir

// clockMonotonic is CLOCK_MONOTONIC of <sys/time.h>, which x/sys does not
// name here.
const clockMonotonic = 3
