"""Another user, while somebody attacks: sends one request after the other, and times them, until its input ends.

bystander.py PORT TOKEN prints a JSON object: the times of all requests in milliseconds, and the statuses (0 for a
connection that broke off).
"""

import contextlib
import http.client
import json
import select
import sys
import time

PATHS = ("/api/conversations", "/health", "/api/tasks", "/api/me")


def main(port: int, token: str) -> None:
    """Ask, each time on a new connection, as a page does that has just been opened."""
    times, statuses, number = [], [], 0
    while number < 10 or not select.select([sys.stdin], [], [], 0.03)[0]:
        begun = time.perf_counter()
        status = 0
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            if number % 20 == 19:
                body = json.dumps({"message": "help"})
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                connection.request("POST", "/chatkit", body, headers)
            else:
                connection.request("GET", PATHS[number % 4], headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            response.read(1)  # the first of a stream
            status = response.status
        times.append(1000 * (time.perf_counter() - begun))
        statuses.append(status)
        number += 1
    print(json.dumps({"times": times, "statuses": statuses}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
