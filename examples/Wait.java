// Asks a model when it is its turn: waits in the line of llmquota, in the call or with a ticket.
//
//     java -cp postgresql.jar Wait.java ORG held|ticket PATIENCE_MS QUESTION
//
// held: one call, which answers when it is granted. It needs a connection for as long as it waits, so it is nothing for
// pgbouncer. ticket: many calls, each of which answers soon, and none in between; hundreds can wait with a few
// connections. What to do when a call fails is in Ask.java.
import java.io.IOException;
import java.net.URI;
import java.net.http.*;
import java.sql.*;
import java.time.Duration;
import java.util.*;

public class Wait {
    static final String SELECT = """
        SELECT pick.*, refusal -> 'position' AS position,
               jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens,
                   'messages', jsonb_build_array(jsonb_build_object('role', 'user', 'content', ?::text))) AS body
          FROM %s AS pick""";
    static final String PICK = SELECT.formatted(
        "llmquota_pick('chat', org => ?, input_tokens => ?, max_output_tokens => 100, wait_ms => ?::int, queue => ?)");
    static final String CLAIM = SELECT.formatted("llmquota_claim(?, wait_ms => ?)");
    static final String RELEASE = "SELECT llmquota_release(?)";
    static final String RECORD = """
        SELECT answer #>> '{choices,0,message,content}' AS content
          FROM (SELECT ?::jsonb AS answer) AS answered,
               llmquota_record(?, (answer #>> '{usage,prompt_tokens}')::bigint,
                   (answer #>> '{usage,completion_tokens}')::bigint, http_status => 200)""";
    static final String FAILED = "SELECT status FROM llmquota_record(?, http_status => ?::int, error => ?)";
    static final int CLAIM_MS = 50;

    /** Runs a statement that answers one row. */
    static ResultSet row(Connection db, String sql, Object... values) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        statement.closeOnCompletion();
        for (int i = 0; i < values.length; i++)
            statement.setObject(i + 1, values[i]);
        ResultSet row = statement.executeQuery();
        row.next();
        return row;
    }

    /** The pick, once it is granted, or when there is nothing to wait for, or no longer. */
    static ResultSet turn(Connection db, String org, String question, boolean held, int patienceMs) throws Exception {
        long deadline = System.currentTimeMillis() + patienceMs;
        ResultSet pick = row(db, PICK, question, org, question.length() / 4 + 1, held ? patienceMs : null, !held);
        // of a held one, too, when as many wait in their calls as may
        while (pick.getString("status").equals("queued")) {
            int wait = pick.getInt("retry_after_ms");
            Object ticket = pick.getObject("lease");
            System.err.printf("queued as number %s, again in %d ms%n", pick.getString("position"), wait);
            if (System.currentTimeMillis() + wait > deadline) {
                row(db, RELEASE, ticket).close();
                return pick;
            }
            pick.close();
            Thread.sleep(wait);
            pick = row(db, CLAIM, question, ticket, CLAIM_MS);
        }
        return pick;
    }

    static HttpRequest request(ResultSet pick) throws SQLException {
        return HttpRequest.newBuilder(URI.create(pick.getString("base_url") + "/chat/completions"))
            .header("Authorization", "Bearer " + System.getenv(pick.getString("secret_ref")))
            .header("Content-Type", "application/json").timeout(Duration.ofMillis(pick.getInt("timeout_ms")))
            .POST(HttpRequest.BodyPublishers.ofString(pick.getString("body"))).build();
    }

    static String ask(Connection db, String org, String form, String patienceMs, String question) throws Exception {
        ResultSet pick = turn(db, org, question, form.equals("held"), Integer.parseInt(patienceMs));
        Object lease = pick.getObject("lease");
        Integer status = null;
        String body;
        if (!pick.getString("status").equals("granted"))
            throw new IllegalStateException("no answer: " + pick.getString("status") + ", " + pick.getString("refusal"));
        try {
            var reply = HttpClient.newHttpClient().send(request(pick), HttpResponse.BodyHandlers.ofString());
            status = reply.statusCode();
            body = reply.body();
        } catch (IOException error) {
            body = error.toString();
        }
        if (Objects.equals(status, 200))
            return row(db, RECORD, body, lease).getString("content");
        row(db, FAILED, lease, status, body).close();
        throw new IOException(body);
    }

    // Autocommit is the default: no transaction stays open while it waits, nor while the provider works.
    // prepareThreshold: see Ask.java.
    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        String url = String.format("jdbc:postgresql://%s:%s/%s?prepareThreshold=0",
            env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        try (Connection db = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            System.out.println(ask(db, args[0], args[1], args[2], args[3]));
        }
    }
}
