// Scores a file of captions with SPICE 1.0 and writes one F-score per line.
//
// SPICE's own main program writes its scores through a JavaScript engine, which Java 15 and later do not have; it also
// writes them after hours of parsing. This program makes the same calls and writes plain numbers.
// Input, UTF-8 lines: the number of references, the candidate, the references, and so on for every row.

import edu.anu.spice.SceneGraph;
import edu.anu.spice.SpiceParser;
import edu.anu.spice.SpiceStats;
import edu.anu.spice.TupleFilter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import org.json.simple.JSONArray;
import org.json.simple.JSONObject;
import org.json.simple.JSONValue;

public class SpiceRun {
    public static void main(String[] arguments) throws Exception {
        Path input = Paths.get(arguments[0]);
        Path output = Paths.get(arguments[1]);
        int threads = Integer.parseInt(arguments[2]);

        List<String> candidates = new ArrayList<>();
        List<String> references = new ArrayList<>();
        List<Integer> counts = new ArrayList<>();
        List<String> lines = Files.readAllLines(input, StandardCharsets.UTF_8);
        for (int line = 0; line < lines.size(); ) {
            int count = Integer.parseInt(lines.get(line++));
            counts.add(count);
            candidates.add(lines.get(line++));
            references.addAll(lines.subList(line, line + count));
            line += count;
        }

        SpiceParser parser = new SpiceParser(null, threads, true);
        List<SceneGraph> referenceGraphs = parser.parseCaptions(references, counts);
        List<SceneGraph> candidateGraphs = parser.parseCaptions(candidates);
        SpiceStats stats = new SpiceStats(new HashMap<String, TupleFilter>(), false);
        for (int row = 0; row < counts.size(); row++) {
            stats.score(row, candidateGraphs.get(row), referenceGraphs.get(row), true);
        }

        List<String> scores = new ArrayList<>();
        for (Object item : (JSONArray) JSONValue.parse(stats.toJSONString())) {
            JSONObject all = (JSONObject) ((JSONObject) ((JSONObject) item).get("scores")).get("All");
            scores.add(all.get("f").toString());
        }
        Files.write(output, scores, StandardCharsets.UTF_8);
    }
}
